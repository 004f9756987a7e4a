"""What each command imports before it answers: nothing of what takes seconds and is not needed for the answer."""

import importlib.util
import json
import subprocess
import sys

import pytest
from PIL import Image

from tests.examples import ROOT

LIBRARIES = ("torch", "timm", "torchvision", "lightning", "torchmetrics", "datasets", "pandas", "transformers")
LIBRARIES += ("matplotlib", "sklearn", "gradio", "onnx", "onnxruntime")
ALL = set(LIBRARIES)

# The command in a process of its own, which ends at its first line where that is what is asked for.
WATCH = """
import json, sys
from finetune.cli import main
until_first_line, report, *words = sys.argv[1:]
class Watched:
    def __init__(self, stream): self.stream = stream
    def __getattr__(self, name): return getattr(self.stream, name)
    def write(self, text):
        if text.strip():
            said.append(text)
            if until_first_line == "yes": raise SystemExit(0)
        return self.stream.write(text)
said = []
sys.stdout, sys.stderr = Watched(sys.stdout), Watched(sys.stderr)
try:
    code = main(words)
except SystemExit as stop:
    code = stop.code
with open(report, "w") as file:
    json.dump({"code": code, "said": "".join(said), "modules": sorted(sys.modules)}, file)
"""


@pytest.fixture
def watch(tmp_path):
    """Exit code, what it said, and those of `LIBRARIES` that it has imported."""

    def call(*words, until_first_line=False):
        report = tmp_path / "report.json"
        arguments = ["yes" if until_first_line else "no", report, *words]
        command = [sys.executable, "-c", WATCH, *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        found = json.loads(report.read_text())
        return found["code"], found["said"], ALL & set(found["modules"])

    return call


@pytest.fixture(scope="module")
def remembered():
    """timm's names are in the cache, as after any first command."""
    code = "from finetune.networks import timm_names; timm_names.names(); print(timm_names.cache_file().is_file())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "True"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["evaluate", "--help"],
        ["predict", "--help"],
        ["export", "--help"],
        ["demo", "--help"],
        ["prepare-imagenet", "--help"],
    ],
)
def test_help_imports_nothing(watch, words):
    code, said, imported = watch(*words)
    assert code == 0
    assert "usage" in said
    assert imported == set()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modell", "resnest50", "--dataset", "digits"], "unknown flag --modell; did you mean --model"),
        (["--model", "resnest50", "--dataset", "digits", "--epochs", "0"], "--epochs must be at least 1"),
        (["predict", "resnest50"], "PATHS must be given"),
    ],
)
def test_a_mistyped_flag_imports_nothing(watch, words, message):
    code, said, imported = watch(*words)
    assert code == 2
    assert message in said
    assert imported == set()


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "resnest500", "--dataset", "digits"], "unknown model 'resnest500'; did you mean"),
        (["--model", "resnest50d.in2k", "--dataset", "digits"], "unknown weights 'resnest50d.in2k'; did you mean"),
        (["--model", "resnest50", "--dataset", "digits", "--optimizer", "adamx"], "--optimizer: unknown 'adamx'; did"),
        (["--model", "resnest50", "--dataset", "digits", "--output", "{file}"], "is not an empty folder"),
        (["--model", "resnest50", "--dataset", "fod101"], "unknown dataset 'fod101'; did you mean food101?"),
        (["--model", "resnest50", "--dataset", "./photos"], "no such file or folder: "),
        (["--model", "resnest50", "--dataset", "{empty}"], "holds no files; expected a folder of images"),
        (["--model", "resnest50", "--dataset", "{file}"], "expected a folder or a .parquet, .arrow, .tar, .zip"),
        (["evaluate", "resnest500", "--dataset", "digits"], "unknown model 'resnest500'"),
        (["evaluate", "resnest50", "--dataset", "fod101"], "unknown dataset 'fod101'"),
        (["evaluate", "resnest50"], "--dataset must be given: what shall resnest50 be evaluated on?"),
        (["evaluate", "./run"], "run holds no complete run: no result.json"),
        (["predict", "resnest500", "photo.jpg"], "unknown model 'resnest500'"),
        (["predict", "./run", "photo.jpg"], "no such folder"),
        (["predict", "resnest50", "--dataset", "./photos"], "no such file or folder: "),
        (["export", "./run"], "no such folder"),
        (["demo", "resnest500"], "unknown model 'resnest500'"),
    ],
)
def test_a_mistyped_name_imports_none_of_the_large_libraries(watch, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no data")
    places = {"{file}": str(tmp_path / "notes.txt"), "{empty}": str(tmp_path / "empty")}
    code, said, imported = watch(*(places.get(word, word) for word in words))
    assert code == 2, said
    assert message in said
    assert imported == set()


@pytest.mark.usefixtures("remembered")
def test_the_first_line_of_train_says_where_the_data_is_before_anything_large_is_imported(watch, tmp_path, photo):
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "1.png").write_bytes(photo.read_bytes())
    words = ["--model", "resnest14d", "--dataset", "pets", "--no-pretrained", "--accelerator", "cpu"]
    code, said, imported = watch(*words, until_first_line=True)
    assert code == 0
    assert said.strip() == f"dataset: folder {tmp_path / 'pets'}"
    assert imported == set()


@pytest.mark.usefixtures("remembered")
def test_evaluate_says_what_it_loads_before_it_does(watch, digits_run):
    _, said, imported = watch("evaluate", digits_run, "--json", until_first_line=True)
    assert said.strip() == f"evaluating {digits_run}: loading torch and Lightning"
    assert imported == set()


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra gradio")
@pytest.mark.usefixtures("remembered")
def test_demo_says_what_it_loads_before_it_does(watch, digits_run):
    _, said, imported = watch("demo", digits_run, until_first_line=True)
    assert said.strip() == f"loading {digits_run}"
    assert imported == set()


def test_predict_needs_torch_and_timm_alone(watch, digits_run, photo):
    code, said, imported = watch("predict", digits_run, photo, "--accelerator", "cpu")
    assert code == 0, said
    assert '"label"' in said
    assert imported == {"torch", "timm", "torchvision"}


def test_settings_and_what_is_checked_first_import_none_of_the_large_libraries():
    light = "task settings.config settings.options settings.checks settings.presets settings.verbs settings.limits "
    light += "settings.recipe settings.help runs.runfolder runs.result training.loggers training.peers data.places "
    light += (
        "export.publishing networks.model_names networks.timm_names commands.start evaluation.palette loading.cores"
    )
    code = f"import sys; import {', '.join(f'finetune.{name}' for name in light.split())}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    imported = set(done.stdout.split())
    assert "finetune.commands.start" in imported
    assert not ALL & imported
