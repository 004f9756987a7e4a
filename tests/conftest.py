"""What all tests share: no network, a cache of their own, the command line as a user calls it."""

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.warm_python import WarmPython

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
CACHE = Path(tempfile.mkdtemp(prefix="finetune-tests-"))

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many threads as there are cores in as many processes would spend their time waiting for each other.
    os.environ["OMP_NUM_THREADS"] = "1"

# The libraries read these when they are imported, so they must be set before that.
os.environ |= {
    "HF_HOME": str(CACHE / "hf"),
    "TORCH_HOME": str(CACHE / "torch"),
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "FINETUNE_VERIFY": "0",  # else each run would import three libraries in processes of their own
    "NETWORK_LOG": str(CACHE / "network.log"),
    "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "no_network"), str(ROOT)]),
}
for name in ("HF_ENDPOINT", "HF_TOKEN", "LOCAL_RANK", "RANK", "WORLD_SIZE"):
    os.environ.pop(name, None)
sys.path.insert(0, str(ROOT / "tests" / "no_network"))
if "sitecustomize" in sys.modules:
    del sys.modules["sitecustomize"]
import sitecustomize  # noqa: E402, F401


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Iterator[Any]:
    """Refuse a test that is `slow` and does not say how slow: the longest are begun first, and CI has a budget."""
    made = yield
    for item in made if isinstance(made, list) else [made]:
        for marker in item.iter_markers("slow") if isinstance(item, pytest.Item) else ():
            if set(marker.kwargs) != {"seconds"} or marker.args:
                raise pytest.Collector.CollectError(
                    f"{item.nodeid}: expected @pytest.mark.slow(seconds=...), with what it takes alone on a core"
                )
    return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first: whole files go to processes, and a long one at the end would run alone."""
    seconds: Counter[Path] = Counter()
    for item in items:
        marker = item.get_closest_marker("slow")
        seconds[item.path] += marker.kwargs["seconds"] if marker else 0
    items.sort(key=lambda item: -seconds[item.path])  # stable: otherwise as collected


def pytest_sessionfinish() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


def need(package: str, extra: str) -> None:
    """Skip where a package is missing, without importing it as `pytest.importorskip` does: openvino would report it."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: needs the extra `{extra}`")


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    """Fail a test in which this process, or one it started, reached for anything but loopback."""
    log = Path(os.environ["NETWORK_LOG"])
    log.unlink(missing_ok=True)
    yield
    assert not log.exists(), f"connections outside loopback: {log.read_text()}"


@pytest.fixture(autouse=True)
def _no_closed_stream() -> Iterator[None]:
    """`finetune.cli.main` in this process prints to a stream that pytest closes with the test."""
    yield
    logging.getLogger("finetune").handlers.clear()


@pytest.fixture(scope="session")
def cli() -> Iterator[Cli]:
    """`python -m MODULE ...` in a process of its own; `cli("finetune", "--model", ...)`."""
    warm = WarmPython()

    def call(module: str, *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None, timeout=600):
        words = [str(argument) for argument in arguments]
        if env is None and warm.serves():
            return warm.run(module, words, cwd, timeout)
        command = [sys.executable, "-W", "error::DeprecationWarning:finetune", "-m", module, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout, check=False)

    yield call
    warm.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real image datasets that lie beside the checkout on the project's own machines."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the real image datasets in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def digits_run(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of the command line: resnest14d for two epochs on 400 digits. Do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    arguments = ["--model", "resnest14d", "--dataset", "digits", "--no-pretrained", "--image-size", 32]
    arguments += ["--epochs", 2, "--max-samples", 400, "--accelerator", "cpu", "--workers", 0, "--output", folder]
    done = cli("finetune", *arguments)
    assert done.returncode == 0, done.stderr
    return folder
