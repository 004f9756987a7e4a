"""examples/: the notebook runs, the scripts are scripts, and the image is made from what is there."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from finetune.cli import parse_train
from finetune.networks import model_names
from tests.examples import ROOT, example

EXAMPLES = ROOT / "examples"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DOCKERFILE = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")

EXECUTE = """
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read({path!r}, as_version=4)
NotebookClient(notebook, timeout=600, resources={{"metadata": {{"path": "."}}}}).execute()
nbformat.write(notebook, "done.ipynb")
"""


def test_every_example_is_in_the_list():
    names = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "Dockerfile.dockerignore", "lightning_cli.yaml"}
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert {name for name in names if f"({name})" in text} == names - {"__pycache__"}


@pytest.mark.slow(seconds=30)
def test_the_notebook_runs(tmp_path):
    code = EXECUTE.format(path=str(EXAMPLES / "digits.ipynb"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in json.loads((tmp_path / "done.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    said = [
        "".join("".join(out.get("text", "")) for out in cell["outputs"] if out.get("name") != "stderr")
        for cell in cells
    ]
    (run,) = (tmp_path / "runs").iterdir()
    accuracy = json.loads((run / "result.json").read_text())["metrics"]["test"]["accuracy"]
    assert f"accuracy {accuracy:.3f} (" in said[1]
    assert len(said[2].splitlines()) == 8
    assert said[3].startswith("resnest14d ['0', '1', ")


def test_the_notebook_is_kept_without_what_it_printed():
    cells = json.loads((EXAMPLES / "digits.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow(seconds=20)
def test_lightning_cli_trains_from_the_file(tmp_path):
    command = [sys.executable, EXAMPLES / "lightning_cli.py", "fit", "--config", EXAMPLES / "lightning_cli.yaml"]
    command += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.accelerator", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("config.yaml")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (config["model"]["model"], config["data"]["dataset"]) == ("resnest14d", "digits")
    assert list(tmp_path.rglob("*.ckpt"))


def _code(script):
    return [line for line in script.splitlines() if line and not re.match(r"# |#!/", line)]


def test_the_job_is_that_of_the_document_and_its_command_can_be_parsed(tmp_path, monkeypatch):
    """tests/test_scaling.py runs the document's script, with stand-ins for SLURM's programs."""
    script = (EXAMPLES / "slurm.sh").read_text(encoding="utf-8")
    assert _code(script) == _code(example("slurm", "docs/how-to/resume.md"))
    subprocess.run(["bash", "-n", EXAMPLES / "slurm.sh"], check=True)
    monkeypatch.chdir(tmp_path)
    (command,) = (line for line in script.replace("\\\n", " ").splitlines() if line.startswith("srun"))
    model_names.check_name(parse_train(shlex.split(command.split("-m finetune")[1])).model)


def instructions(name):
    """What stands after an instruction of the Dockerfile, each time."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    return [" ".join(line.split()[1:]) for line in lines if line.split()[:1] == [name]]


def test_the_image_runs_what_make_demo_runs():
    (demo,) = re.findall(r"^\t@\$\(PY\) (-m finetune .*--dataset digits.*)$", MAKEFILE, re.MULTILINE)
    (command,) = instructions("CMD")
    assert command.replace('"$ACCELERATOR"', "cpu") == f"python {demo}"
    assert "ACCELERATOR=cpu" in instructions("ARG")
    arguments = shlex.split(command.replace('"$ACCELERATOR"', "gpu"))[3:]
    assert parse_train(arguments).accelerator == "gpu"


def test_the_image_installs_what_make_demo_installs():
    (makes,) = re.findall(r'^\t@\$\(INSTALL\) --editable ("\.\[demo\]")$', MAKEFILE, re.MULTILINE)
    first, then = (command for command in instructions("RUN") if "pip install" in command)
    assert then == f"pip install --no-cache-dir --constraint constraints.txt {makes}"
    assert "--constraint constraints.txt" in first
    assert "--constraint constraints.txt" in MAKEFILE
    for command in instructions("RUN"):
        subprocess.run(["sh", "-n", "-c", command], check=True)


def test_the_image_has_the_oldest_python_that_is_supported():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (least,) = re.findall(r'^requires-python = ">=(3\.\d+)"$', project, re.MULTILINE)
    assert f"PYTHON={least}" in instructions("ARG")


def test_what_the_image_copies_is_there_and_enough_to_build_the_package(tmp_path):
    sources = [name for line in instructions("COPY") for name in line.split()[:-1]]
    for name in sources:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    ignored = (EXAMPLES / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert [line[1:] for line in ignored if line.startswith("!")] == sources
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
