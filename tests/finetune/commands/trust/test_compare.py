"""`python -m finetune compare` on real runs, against what the test computes from result.json and the predictions."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from finetune.cli import main

pytestmark = pytest.mark.slow(seconds=60)


def compared(capsys, *words):
    assert main(["compare", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def right(run):
    found = load_file(run / "predictions.safetensors")
    return found["test.logits"].argmax(axis=1) == found["test.targets"]


def test_two_runs_on_their_own_test_images(runs, capsys):
    stats = pytest.importorskip("scipy.stats", reason="the oracle")
    found = compared(capsys, runs / "one", runs / "other")
    assert found["images"] == 60
    results = [json.loads((runs / name / "result.json").read_text())["metrics"]["test"] for name in ("one", "other")]
    for model, expected in zip(found["models"], results, strict=True):
        assert model["scores"] == pytest.approx(expected, abs=1e-6)
    (comparison,) = found["comparisons"]
    assert set(comparison["metrics"]) == set(results[0])
    for key, of in comparison["metrics"].items():
        assert of["difference"] == pytest.approx(results[1][key] - results[0][key], abs=1e-6)
        assert of["interval"][0] <= of["difference"] <= of["interval"][1]
    ours, theirs = right(runs / "other"), right(runs / "one")
    counts = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    assert (comparison["mcnemar"]["only_model"], comparison["mcnemar"]["only_reference"]) == counts
    assert comparison["mcnemar"]["p"] == pytest.approx(stats.binomtest(counts[0], sum(counts)).pvalue)
    assert [one["row"] for one in comparison["only_reference"]] == np.flatnonzero(theirs & ~ours).tolist()
    accuracy = comparison["metrics"]["accuracy"]
    assert accuracy["verdict"] == ("worse" if accuracy["interval"][1] < 0 else "tie")


def test_seeds_of_one_setting_are_one_entry(runs, capsys):
    found = compared(capsys, runs / "one", runs / "two", runs / "other")
    assert [model["seeds"] for model in found["models"]] == [2, 1]
    each = [json.loads((runs / n / "result.json").read_text())["metrics"]["test"]["accuracy"] for n in ("one", "two")]
    assert found["models"][0]["scores"]["accuracy"] == pytest.approx(np.mean(each))
    assert found["models"][0]["sd"]["accuracy"] == pytest.approx(np.std(each, ddof=1))
    assert "Student" in found["method"]
    assert main(["compare", str(runs / "one"), str(runs / "two")]) == 2
    assert "2 seeds of one setting" in capsys.readouterr().err


def test_the_table_and_the_page(runs, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert main(["compare", str(runs / "one"), str(runs / "other"), "--page", str(page)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"accuracy +0\.\d{4} +0\.\d{4} +[+-]0\.\d{4} +\[.+\] +(better|worse|tie)", said)
    assert "McNemar, exact" in said
    html = page.read_text()
    assert html.count('<img alt="" src="data:image/png;base64,') > 0
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert "<script" not in html


def test_other_test_images_are_refused_or_cut_to_the_common_ones(runs, capsys, tmp_path):
    fewer = tmp_path / "fewer"
    shutil.copytree(runs / "other", fewer)
    lock = json.loads((fewer / "lock.json").read_text())
    lock["data"]["test split"] = "59 images, another"
    (fewer / "lock.json").write_text(json.dumps(lock))
    (fewer / "complete.json").unlink()
    assert main(["compare", str(runs / "one"), str(fewer)]) == 2
    assert "are not those of" in (said := capsys.readouterr().err)
    assert "--common" in said
    splits = json.loads((fewer / "splits.json").read_text())
    splits["test"]["rows"] = list(range(59, -1, -2))  # every second, in another order
    (fewer / "splits.json").write_text(json.dumps(splits))
    result = json.loads((fewer / "result.json").read_text())
    result["dataset"]["splits"]["test"] = 30
    (fewer / "result.json").write_text(json.dumps(result))
    (fewer / "predictions.safetensors").unlink()  # which are in the old order: computed again
    found = compared(capsys, runs / "one", fewer, "--common")
    assert found["images"] == 30
    ours, theirs = right(runs / "other")[1::2], right(runs / "one")[1::2]
    counts = found["comparisons"][0]["mcnemar"]
    assert counts["only_model"] == (ours & ~theirs).sum()
    assert counts["only_reference"] == (theirs & ~ours).sum()
    rows = [one["row"] for one in found["comparisons"][0]["only_reference"]]
    assert rows == (2 * np.flatnonzero(theirs & ~ours) + 1).tolist()


def test_a_run_and_the_same_again_are_compared_and_no_two_seeds(runs, capsys, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "again")
    found = compared(capsys, runs / "one", tmp_path / "again")
    (comparison,) = found["comparisons"]
    assert comparison["mcnemar"] == {"only_model": 0, "only_reference": 0, "p": 1.0}
    assert {of["verdict"] for of in comparison["metrics"].values()} == {"tie"}
    low, high = comparison["metrics"]["accuracy"]["interval"]
    assert low < 0 < high


def test_models_on_another_dataset_and_training_images_are_said(runs, three_splits, capsys):
    words = ["--dataset", three_splits, "--split", "train", "--accelerator", "cpu", "--workers", "0"]
    found = compared(capsys, runs / "one", f"local-dir:{runs / 'other' / 'model'}", *words)
    assert found["images"] == 96
    assert any("96 of these images are training images of" in line for line in found["remarks"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "expected two or more of RUN|MODEL, got 1"),
        (["a", "b", "--split", "test"], "--split: only with --dataset"),
        (["a", "b", "--dataset", "digits", "--common"], "--common is for the runs' own test images"),
        (["/nowhere/a", "/nowhere/b"], "no such folder: /nowhere/a"),
    ],
)
def test_mistakes_are_explained(words, message, capsys):
    assert main(["compare", *words]) == 2
    assert message in capsys.readouterr().err
