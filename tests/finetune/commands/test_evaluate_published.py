"""A published number again, from the repository alone: the Hub is the stand-in, with the model and the dataset."""

import json
import shutil

import pytest

from finetune.cli import main
from finetune.data.sample import digits
from tests.finetune.commands.trust.conftest import TINY
from tests.hub_standin import HubStandIn

pytestmark = pytest.mark.slow(seconds=60)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A dataset of one split, so that the test images are rows that the run has held out."""
    folder = tmp_path_factory.mktemp("dataset")
    digits().shuffle(seed=0).select(range(160)).to_parquet(folder / "data/train-00000-of-00001.parquet")
    with HubStandIn() as standin:
        standin.add_dataset("owner/digits", folder)
        yield standin


@pytest.fixture(scope="module")
def run_folder(hub, cli, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    words = ["--dataset", "owner/digits", "--epochs", 2, "--lr", 3e-3, "--output", root / "run"]
    done = cli("finetune", *TINY, *words, env=hub.environment(root / "home"))
    assert done.returncode == 0, done.stderr
    hub.add_model("owner/tiny", root / "run" / "model")
    return root / "run"


def test_the_card_s_number_comes_again_on_a_machine_that_has_nothing(hub, run_folder, cli, tmp_path):
    words = ["evaluate", "hf-hub:owner/tiny", "--accelerator", "cpu", "--workers", 0, "--json"]
    done = cli("finetune", *words, env=hub.environment(tmp_path / "elsewhere"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, result = json.loads(done.stdout), json.loads((run_folder / "result.json").read_text())
    assert found["images"] == result["dataset"]["splits"]["test"] == 16
    assert found["metrics"] == pytest.approx(result["metrics"]["test"], abs=1e-6)
    said = json.loads((run_folder / "model" / "evaluation.json").read_text())
    assert said["dataset"]["revision"] == result["dataset"]["revision"]
    assert len(said["rows"]) == 16


def test_other_images_and_folders_that_do_not_say_are_refused(digits_run, capsys, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(digits_run / "model", folder)
    words = ["evaluate", f"local-dir:{folder}", "--accelerator", "cpu", "--workers", "0"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recorded = json.loads((digits_run / "result.json").read_text())["metrics"]["test"]
    assert found["metrics"] == pytest.approx(recorded, abs=1e-6)
    said = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(said | {"images": "40 images, another"}))
    assert main(words) == 2
    assert "the dataset has changed since the model was tested" in capsys.readouterr().err
    said["dataset"]["open"] = None
    (folder / "evaluation.json").write_text(json.dumps(said))
    assert main(words) == 2
    assert "--dataset must be given: the model was tested on" in capsys.readouterr().err
    (folder / "evaluation.json").unlink()
    assert main(words) == 2
    assert "has no evaluation.json" in capsys.readouterr().err
