"""A Python that has imported the libraries, and forks for each `python -m MODULE ...` that a test asks for.

Half of the suite's time used to be the same nine seconds of imports, once per command. What a test sees is what it
would see of a new process: arguments, environment, folder, streams, exit code, signals. None of the project's own
modules are imported before the fork.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = (
    "torch",
    "torchvision",
    "lightning.pytorch",
    "torchmetrics",
    "timm",
    "datasets",
    "huggingface_hub",
    "tyro",
    "matplotlib.figure",
)


class WarmPython:
    """Starts on the first call.

    Libraries read variables when they are imported, so it serves only calls of the environment that it started in.
    """

    def __init__(self):
        self.server, self.environment = None, environment()

    def serves(self):
        """Whether the environment is still the one that it starts in."""
        return environment() == self.environment

    def run(self, module, arguments, cwd, timeout):
        """Like `subprocess.run` of `python -m module arguments` with captured text."""
        if self.server is None:
            command = [sys.executable, "-W", "error::DeprecationWarning:finetune", __file__]
            self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with tempfile.TemporaryDirectory() as folder:
            streams = [Path(folder, name) for name in ("out", "err")]
            request = {"module": module, "arguments": arguments, "cwd": str(cwd or Path.cwd()), "timeout": timeout}
            self.server.stdin.write(json.dumps(request | {"streams": [str(path) for path in streams]}) + "\n")
            self.server.stdin.flush()
            answer = self.server.stdout.readline()
            assert answer, "the warm Python has died"
            status = json.loads(answer)
            out, err = (path.read_bytes().decode() for path in streams)
        if status is None:
            raise subprocess.TimeoutExpired([module, *arguments], timeout, out, err)
        return subprocess.CompletedProcess([module, *arguments], status, out, err)

    def close(self):
        if self.server is not None:
            self.server.stdin.close()
            self.server.stdout.close()
            self.server.wait()


def environment():
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def serve():
    """Fork for each line of stdin, answer its exit code on stdout; in the fork, return the request."""
    answers = os.dup(1)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.close(answers)
            return request
        signal.signal(signal.SIGALRM, lambda *_, child=child: os.kill(child, signal.SIGKILL))
        signal.alarm(int(request["timeout"]))
        _, status = os.waitpid(child, 0)
        late = signal.alarm(0) == 0
        code = os.waitstatus_to_exitcode(status)
        os.write(answers, (json.dumps(None if late else code) + "\n").encode())
    return None


def become(request):
    """Turn the fork into `python -m module arguments`."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.chdir(request["cwd"])
    files = [os.open(os.devnull, os.O_RDONLY)]
    files += [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in request["streams"]]
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    sys.stdin = open(0, closefd=False)
    sys.path[0] = request["cwd"]  # as with -m
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in LIBRARIES:
        __import__(name)
    if (wanted := serve()) is not None:
        become(wanted)
