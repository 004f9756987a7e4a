"""`python -m finetune evaluate`, on one and on several devices."""

import json
import shutil

import pytest

from finetune.cli import main


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_numbers_do_not_depend_on_the_number_of_devices(digits_run, cli, devices):
    done = cli("finetune", "evaluate", digits_run, "--accelerator", "cpu", "--devices", devices, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)  # and nothing else on standard output
    result = json.loads((digits_run / "result.json").read_text())
    recorded, evaluation = result["metrics"]["test"], result["evaluation"]
    assert said["images"] == 40
    for name in ("accuracy", "top5_accuracy", "macro_f1", "balanced_accuracy"):
        assert said["metrics"][name] == recorded[name]
    assert said["metrics"]["loss"] == pytest.approx(recorded["loss"], abs=1e-6)
    for name, ends in evaluation["intervals"]["test"].items():
        assert said["intervals"][name] == ends
    floor = evaluation["majority_class"]
    assert said["majority_class"] == {"class": floor["class"], "accuracy": floor["test"]}
    calibration = evaluation["calibration"]
    assert said["calibration"]["temperature"] == calibration["temperature"]
    for name in ("error", "error_calibrated"):
        assert said["calibration"][name] == pytest.approx(calibration["test"][name], abs=1e-5)


def test_table_names_the_split_and_the_recorded_numbers(digits_run, capsys):
    assert main(["evaluate", str(digits_run), "--split", "validation"]) == 0
    said = capsys.readouterr().out
    recorded = json.loads((digits_run / "result.json").read_text())["metrics"]["validation"]
    assert "validation" in said
    assert f"{recorded['accuracy']:.6f}" in said
    assert "images" in said
    assert "always one class" in said
    assert "calibration error: " in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "holds no complete run: no result.json"),
        (["RUN", "--split", "tset"], "--split must be one of train, validation, test, got 'tset'"),
        (["RUN", "--devices", "many"], "--devices"),
    ],
)
def test_mistakes_are_explained(digits_run, capsys, arguments, message):
    code = main(["evaluate", *[str(digits_run) if a == "RUN" else a for a in arguments]])
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_changed_dataset_is_noticed(digits_run, capsys, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    splits = json.loads((run / "splits.json").read_text())
    splits["test"]["rows"][-1] = 5000
    (run / "splits.json").write_text(json.dumps(splits))
    (run / "complete.json").unlink()  # which knows that it is not what the run has written
    assert main(["evaluate", str(run)]) == 2
    assert "the dataset has changed since the run" in capsys.readouterr().err
