"""`python tests/timm_suite.py [-k EXPRESSION]`: timm's own tests of its models, of ours.

They are timm's `tests/test_models.py`, which no wheel has. `TIMM_SOURCE` in the environment names a clone (a bare one
will do) or an unpacked source archive of timm; without it nothing is run, and this says so. `resnest_timm` is imported,
so that its tests by name meet our models; those that download weights are left out.
"""

import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = "tests/test_models.py"
WITHOUT_NETWORK = "resnest and not pretrained and not inference"
PLUGIN = "import resnest_timm\n"


def source():
    """The text of timm's tests, of the installed version where a clone has its tag; None without a source."""
    folder = os.environ.get("TIMM_SOURCE", "")
    if not folder:
        return None
    if (path := Path(folder, FILE)).is_file():
        return path.read_text(encoding="utf-8")
    for commit in (f"v{version('timm')}", "HEAD"):
        command = ["git", f"--git-dir={folder}", "show", f"{commit}:{FILE}"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        if shown.returncode == 0:
            return shown.stdout
    sys.exit(f"timm_suite: expected a clone or an unpacked archive of timm in TIMM_SOURCE, got {folder}: no {FILE}")


def main(arguments):
    """Exit code of pytest; 0 where there is no source."""
    text = source()
    if text is None:
        print("timm_suite: not run: no TIMM_SOURCE, a clone of https://github.com/huggingface/pytorch-image-models")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_models.py").write_text(text, encoding="utf-8")
        Path(folder, "with_ours.py").write_text(PLUGIN)
        marks = sorted({*re.findall(r"pytest\.mark\.(\w+)", text)} - {"parametrize", "skipif", "skip", "xfail"})
        lines = "\n".join(f"    {mark}: timm's" for mark in marks)
        Path(folder, "pytest.ini").write_text(f"[pytest]\nmarkers =\n{lines}\n")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(ROOT)]), "HF_HUB_OFFLINE": "1"}
        environment.pop("GITHUB_ACTIONS", None)  # there it leaves tests out
        command = [sys.executable, "-m", "pytest", "-q", "-p", "with_ours", "-k", WITHOUT_NETWORK, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
