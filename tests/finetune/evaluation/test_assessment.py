"""What result.json says beyond the scores, against scikit-learn; and that images keep their order."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch.trainer.states import TrainerFn
from sklearn import metrics

from finetune.evaluation import assessment
from finetune.evaluation.predictions import Predictions
from finetune.loading.sampler import EvalBatches
from finetune.training.callbacks import predictions as collecting
from finetune.training.callbacks.predictions import CollectPredictions
from tests.finetune.classes import prepare

NAMES = ["ant", "bee", "cat", "dog", "eel"]


def draw(count=200, among=(0, 1, 2, 4), seed=0):
    """Five classes; no target is class 3, and class 4 is never predicted."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor(among)[torch.randint(len(among), (count,), generator=generator)]
    logits = torch.randn(count, 5, generator=generator)
    logits[torch.arange(count), targets] += 1.5
    logits[:, 4] -= 50
    return Predictions(logits, targets)


def test_per_class_table_is_scikit_learns():
    found = draw()
    rows = assessment.per_class(found, NAMES)
    theirs = metrics.classification_report(
        found.targets, found.labels, labels=range(5), target_names=NAMES, output_dict=True, zero_division=np.nan
    )
    assert [row["class"] for row in rows] == NAMES
    for row in rows:
        reference = theirs[row["class"]]
        for ours, name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            value = np.nan if row[ours] is None else row[ours]
            assert value == pytest.approx(reference[name], nan_ok=True), (row, name)
        assert row["support"] == reference["support"]
        assert row["predicted"] == (found.labels == NAMES.index(row["class"])).sum()
    assert (rows[3]["recall"], rows[4]["precision"]) == (None, None)  # no such image; never predicted
    assert (rows[3]["precision"], rows[4]["recall"], rows[4]["f1"]) == (0, 0, 0)


def test_assessment_is_scikit_learns():
    validation, test = draw(seed=1), draw(seed=2)
    entry = assessment.assess(validation, test, np.array([1, 1, 2, 2, 0]), NAMES, seed=3)
    assert entry["confusion"]["test"] == metrics.confusion_matrix(test.targets, test.labels, labels=range(5)).tolist()
    assert entry["majority_class"] == {
        "class": "bee",  # the first of two
        "validation": np.mean(validation.targets.numpy() == 1),
        "test": np.mean(test.targets.numpy() == 1),
    }
    assert entry["mistakes"]["count"] == np.sum(test.targets.numpy() != test.labels.numpy())
    assert entry["intervals"]["seed"] == 3
    json.dumps(entry, allow_nan=False)


def test_a_diverged_model_has_no_calibration_and_many_classes_no_matrix():
    broken = Predictions(torch.full((4, 5), float("nan")), torch.arange(4))
    for validation, test in ((broken, draw()), (draw(), broken)):
        entry = assessment.assess(validation, test, np.array([0]), NAMES, seed=0)
        assert "calibration" not in entry
        json.dumps(entry, allow_nan=False)
    names = [str(i) for i in range(101)]
    wide = Predictions(torch.eye(101)[:50], torch.arange(50))
    assert "confusion" not in assessment.assess(wide, wide, np.array([0]), names, seed=0)


def test_worst_mistakes_come_first():
    logits = torch.tensor([[5.0, 0, 0], [0, 3.0, 0], [1.0, 0, 0], [0, 0, 9.0]])
    found = Predictions(logits, torch.tensor([1, 0, 0, 2]))
    ranked = assessment.worst(found, 1.0)
    assert [(i, label) for i, label, _ in ranked] == [(0, 0), (1, 1)]
    assert ranked[0][2] == pytest.approx(float(logits[0].softmax(dim=0)[0]))
    assert assessment.worst(found, 2.0)[0][2] == pytest.approx(float((logits[0] / 2).softmax(dim=0)[0]))
    assert len(assessment.worst(found, 1.0, count=1)) == 1


@pytest.mark.parametrize(("count", "size", "world"), [(10, 4, 1), (17, 3, 3), (9, 2, 4), (5, 64, 2)])
def test_batches_of_all_processes_come_in_the_order_of_rows(monkeypatch, count, size, world):
    """As gathering gives them: batch k of every process."""
    dealt = [[[i for _, i in batch] for batch in EvalBatches(count, size, rank, world)] for rank in range(world)]
    tensors = [[(torch.eye(count)[rows], torch.tensor(rows)) for rows in batches] for batches in dealt]
    together = iter([list(batches) for batches in zip(*tensors, strict=True)])
    monkeypatch.setattr(collecting, "_gather", lambda *_: next(together))
    collector = CollectPredictions()
    trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.TESTING), is_global_zero=True)
    collector.on_test_start(trainer, None)
    for logits, targets in tensors[0]:
        collector.on_test_batch_end(trainer, None, logits, (None, targets), 0)
    collector.on_test_epoch_end(trainer, SimpleNamespace(device=torch.device("cpu")))
    assert collector.last.targets.tolist() == list(range(count))
    assert (collector.last.logits == torch.eye(count)).all()


def test_validation_during_training_is_not_kept():
    collector = CollectPredictions()
    trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING), is_global_zero=True)
    collector.on_validation_start(trainer, None)
    collector.on_validation_batch_end(trainer, None, torch.zeros(2, 3), (None, torch.zeros(2)), 0)
    collector.on_validation_epoch_end(trainer, SimpleNamespace(device=torch.device("cpu")))
    assert (collector.batches, collector.last) == ([], None)


def test_predictions_in_another_order_are_refused():
    data = SimpleNamespace(splits=SimpleNamespace(parts={"test": SimpleNamespace(targets=np.array([0, 1]))}))
    found = {"test": Predictions(torch.eye(2), torch.tensor([1, 0]))}
    with pytest.raises(RuntimeError, match="predictions of test are not those of its rows"):
        assessment.add(None, found, data)


def test_a_real_runs_evaluation_is_that_of_its_model(digits_run):
    """Everything again from the exported weights, in a plain loop."""
    result = json.loads((digits_run / "result.json").read_text())
    entry = result["evaluation"]
    data = prepare("digits", max_samples=400)
    model = timm.create_model(f"local-dir:{digits_run / 'model'}", pretrained=True).eval()
    from finetune import ImageDataModule

    loader = ImageDataModule(data, data_config=timm.data.resolve_model_data_config(model), workers=0)
    found = {}
    for role in ("validation", "test"):
        with torch.inference_mode():
            batches = [(model(loader.normalize(pixels)), targets) for pixels, targets in loader.eval_dataloader(role)]
        found[role] = Predictions(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    again = assessment.assess(found["validation"], found["test"], data.splits.parts["train"].targets, loader.classes, 0)
    assert again["per_class"] == entry["per_class"]
    assert again["confusion"] == entry["confusion"]
    assert again["majority_class"] == entry["majority_class"]
    assert again["intervals"] == entry["intervals"]
    assert again["calibration"]["temperature"] == pytest.approx(entry["calibration"]["temperature"], rel=1e-4)
    assert again["calibration"]["test"] == pytest.approx(entry["calibration"]["test"], abs=1e-4)
    assert entry["calibration"]["test"]["loss"] == pytest.approx(result["metrics"]["test"]["loss"], rel=1e-9)
    wrong = round(40 * (1 - result["metrics"]["test"]["accuracy"]))
    assert entry["mistakes"] == {"count": wrong, "shown": min(24, wrong)}
    low, high = entry["intervals"]["test"]["accuracy"]
    assert low <= result["metrics"]["test"]["accuracy"] <= high


def test_a_real_runs_files(digits_run):
    entry = json.loads((digits_run / "result.json").read_text())["evaluation"]
    config = json.loads((digits_run / "model/config.json").read_text())
    assert config["calibration"] == {"temperature": entry["calibration"]["temperature"]}
    assert entry["figures"] == {
        name: f"figures/{name}.png" for name in ("confusion", "curves", "reliability", "mistakes")
    }
    with (digits_run / "model/figures/per_class.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, expected in zip(rows, entry["per_class"]["test"], strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in expected.items()}
