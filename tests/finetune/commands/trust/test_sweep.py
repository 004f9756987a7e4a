"""`python -m finetune sweep`: validation chooses, the winner alone and the preset are tested, a second call goes on."""

import json

import pytest

from finetune.cli import main
from finetune.commands.trust import sweep
from finetune.settings.config import RunConfig
from tests.finetune.commands.trust.conftest import TINY

pytest.importorskip("optuna", reason="needs the extra `sweep`")


def words(dataset, folder, trials):
    own = ["--dataset", dataset, "--epochs", 2, "--lr", 2e-3, "--trials", trials, "--output", folder, "--json"]
    return ["sweep", *map(str, [*TINY, *own])]


@pytest.mark.slow(seconds=90)
def test_a_sweep_goes_on_and_tests_the_winner_alone(three_splits, tmp_path, capsys):
    folder = tmp_path / "sweep"
    assert main(words(three_splits, folder, 2)) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(words(three_splits, folder, 4)) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["trial"] for one in found["trials"]] == [0, 1, 2, 3]
    assert found["trials"][:2] == first["trials"]
    assert found["trials"][0]["settings"] == {
        "lr": 2e-3,
        "epochs": 2,
        "layer_decay": None,
        "image_size": 32,
        "augmentation": "as given",
    }
    done = [one for one in found["trials"] if one["state"] == "done"]
    best = max(one["score"] for one in done)
    assert next(one["score"] for one in done if one["trial"] == found["winner"]) == best
    tested = {path.parent.name for path in (folder / "trials").glob("*/result.json")}
    assert tested <= {"0", str(found["winner"]), str(first["winner"])}
    assert {"0", str(found["winner"])} <= tested
    result = json.loads((folder / "trials" / str(found["winner"]) / "result.json").read_text())
    assert result["metrics"]["validation"]["accuracy"] == pytest.approx(best, abs=1e-6)
    if found["winner"] != 0:
        (comparison,) = found["test"]["comparisons"]
        low, high = comparison["metrics"]["accuracy"]["interval"]
        assert low <= comparison["metrics"]["accuracy"]["difference"] <= high
    assert json.loads((folder / "sweep.json").read_text()) == found
    other = [*words(three_splits, folder, 4), "--lr", "0.5"]
    assert main(other) == 2
    assert "holds a sweep around" in capsys.readouterr().err


def test_the_preset_is_a_point_of_the_space_and_gives_itself():
    config = RunConfig(model="resnest50", dataset="digits", epochs=10, image_size=224).resolved()
    point = sweep.preset(config)
    choices = sweep.space(config)
    assert choices["lr"][0] < point["lr"] < choices["lr"][1]
    assert all(point[name] == choices[name][0] for name in choices if name != "lr")
    assert sweep.settings(config, point) == config
    longer = sweep.settings(config, point | {"epochs": 20, "augmentation": "strong"})
    assert (longer.warmup_epochs, longer.auto_augment) == (2.0, "rand-m6-n2")
    assert choices["image_size"] == [224, 160, 288]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trials", "0"], "--trials must be at least 1"),
        (["--budget", "5"], "--budget: expected a duration"),
        (["--seeds", "3"], "a sweep trains each setting once"),
        (["--publish", "a/b"], "--publish is not for sweep"),
        (["--devices", "2"], "a sweep runs on one device"),
    ],
)
def test_mistakes_are_explained(flags, message, capsys):
    assert main(["sweep", "--dataset", "digits", "--model", "resnest14d", *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_table_says_by_how_little_the_winner_was_chosen():
    point = {"lr": 1e-3, "epochs": 2}
    trials = [
        {"trial": 0, "state": "done", "score": 0.9, "settings": point, "seconds": 2.0, "why": None},
        {"trial": 1, "state": "stopped", "score": 0.5, "settings": point, "seconds": 1.0, "why": "time is over"},
        {"trial": 2, "state": "done", "score": 0.91, "settings": point, "seconds": 2.0, "why": None},
    ]
    metric = {"difference": -0.02, "interval": [-0.05, 0.01], "verdict": "tie"}
    found = {"by": "validation accuracy", "trials": trials, "winner": 2, "preset": 0, "images": 100, "folder": "here"}
    said = list(sweep.lines(found | {"test": {"images": 50, "comparisons": [{"metrics": {"accuracy": metric}}]}}))
    assert said[2].endswith("lr 0.001, epochs 2 (time is over)")
    assert said[3].startswith("    2* done")
    assert said[4] == "trial 2 was chosen for +0.0100 on 100 validation images"
    assert said[5].endswith("accuracy -0.0200, 95 % interval [-0.0500, +0.0100]: tie")
