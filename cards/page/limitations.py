"""What a card warns of: each sentence follows from numbers of result.json, by a rule that is written here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cards import tasks
from cards.page.text import escape, name_list, number

WIDE = 0.05
"""From this width on the accuracy's interval is pointed out."""
WEAK = 0.1
"""A class is weak whose F1 is lower than the mean of all by more than this, or below `POOR`."""
POOR = 0.5
FEW = 10
"""Test images of a class below which its own numbers say little."""
MISCALIBRATED = 0.05
UNEQUAL = 3.0
"""Largest over smallest class, from which on it is pointed out."""
APART = 0.05
"""Accuracy over balanced accuracy from which on frequent classes are said to be recognised better."""
NAMED = 10


def limitations(result: dict[str, Any]) -> list[str]:
    """Sentences in Markdown, the most serious first; what result.json has no number for is left out."""
    evaluation = result.get("evaluation") or {}
    rows = evaluation.get("per_class", {}).get("test", [])
    return [
        *_floor(evaluation),
        *_interval(result, evaluation),
        *_probe(evaluation.get("probe")),
        *_weak(rows, result["metrics"]["test"].get("macro_f1")),
        *little_known(rows),
        *_calibration(evaluation.get("calibration")),
        *_unequal(result),
        *_selected(result, evaluation),
        *of_data(result["dataset"]),
        *of_training(result["training"]),
        f"It answers with one of its {len(result['dataset']['classes']):,} classes, also for an image that shows none "
        "of them, and was tested on images of this dataset only.",
    ]


def _floor(evaluation: dict[str, Any]) -> Iterator[str]:
    floor, ends = evaluation.get("majority_class"), _ends(evaluation)
    if floor and ends and ends[0] <= floor["test"]:
        yield (
            f"**Not shown to be better than no model:** always answering {escape(floor['class'])} has a test accuracy "
            f"of {number(floor['test'])}, which is not below the interval of this model's."
        )


def _probe(probe: dict[str, Any] | None) -> Iterator[str]:
    """That a classifier on frozen features does as well, where it does."""
    difference = (probe or {}).get("difference")
    if difference and difference["interval"][0] <= 0:
        low, high = difference["interval"]
        yield (
            "A linear probe of the same pretrained weights, without any finetuning, does as well on the test images: "
            f"the difference in accuracy is {number(difference['accuracy'])}, with an interval from {number(low)} to "
            f"{number(high)}."
        )


KINDS = {
    "bytes": "byte for byte",
    "pixels": "pixel for pixel",
    "near": "encoded anew, scaled, cropped or mirrored",
}
"""How a test image is one of training, by the name in `evaluation.leaks.kinds`; without them it is byte for byte."""


def leaked(result: dict[str, Any]) -> Iterator[str]:
    """That training has seen test images, and the number without them; of every task."""
    found = (result.get("evaluation") or {}).get("leaks")
    if not found or not found["images"]:
        return
    kinds = found.get("kinds", {"bytes": found["images"]})
    how = ", ".join(f"{count} {KINDS[kind]}" for kind, count in kinds.items() if kind in KINDS)
    how = KINDS[next(iter(kinds))] if len(kinds) == 1 and next(iter(kinds)) in KINDS else how
    key, (_, title) = next(iter(tasks.of(result).metrics.items()))
    name = f"{title[0].lower()}{title[1:]}" if title[1:2].islower() else title  # not AP
    score = found["metrics"].get(key)
    without = f" Without them the test {name} is {number(score)}." if score is not None else ""
    yield (
        f"**{images_of(found['images'])}, {100 * found['share']:.2f} % of all, "
        f"{'is a' if found['images'] == 1 else 'are'} training image{'' if found['images'] == 1 else 's'} too**, "
        f"{how}.{without}"
    )


def _interval(result: dict[str, Any], evaluation: dict[str, Any]) -> Iterator[str]:
    ends, images = _ends(evaluation), result["dataset"]["splits"]["test"]
    if ends and ends[1] - ends[0] > WIDE:
        yield (
            f"{images_of(images)} are few to judge by: the accuracy on more like them may be anything from "
            f"{number(ends[0])} to {number(ends[1])}."
        )


def _weak(rows: list[dict[str, Any]], mean: float | None) -> Iterator[str]:
    """Classes that are recognised worse than the others, by F1, and those that are never answered."""
    tested = [row for row in rows if row["support"] and row["f1"] is not None]
    weak = sorted((row for row in tested if row["f1"] < max(POOR, (mean or 0.0) - WEAK)), key=lambda row: row["f1"])
    if weak:
        shown = "; ".join(
            f"{escape(row['class'])} (F1 {number(row['f1'])}, recall {number(row['recall'])}, "
            f"{images_of(row['support'])})"
            for row in weak[:NAMED]
        )
        more = f"; and {len(weak) - NAMED:,} more, see the table" if len(weak) > NAMED else ""
        yield f"Weak classes: {shown}{more}."
    never = [row["class"] for row in tested if not row["predicted"]]
    if never:
        yield f"Never answered for any test image: {name_list(never, NAMED)}."


def little_known(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Classes of few test images, or none."""
    absent = [row["class"] for row in rows if not row["support"]]
    if absent:
        yield f"No test image shows {name_list(absent, NAMED)}: nothing is known about how well that is recognised."
    few = sum(0 < row["support"] < FEW for row in rows)
    if few:
        yield (
            f"{few:,} of {len(rows):,} classes {'has' if few == 1 else 'have'} fewer than {FEW} test images: numbers "
            "of single classes are rough."
        )


def _calibration(found: dict[str, Any] | None) -> Iterator[str]:
    if not found:
        return
    test, temperature = found["test"], found["temperature"]
    if test["error"] > MISCALIBRATED and test["error_calibrated"] < test["error"]:
        yield (
            f"Its softmax is off by {number(test['error'])} on average as a probability: divide the logits by the "
            f"temperature ({temperature:.3f}) first, as the code below does."
        )
    if test["error_calibrated"] > MISCALIBRATED:
        yield (
            f"Calibrated probabilities, too, are off by {number(test['error_calibrated'])} on average on the test "
            "images: do not decide by small differences of them."
        )
    if "note" in found:
        yield f"The temperature was {escape(found['note'])}."


def _unequal(result: dict[str, Any]) -> Iterator[str]:
    dataset, test = result["dataset"], result["metrics"]["test"]
    ratio = dataset.get("imbalance_ratio")
    if ratio and ratio >= UNEQUAL:
        yield f"The most frequent class has {ratio:g} times as many training images as the rarest."
    if test.get("accuracy", 0) - test.get("balanced_accuracy", 1) > APART:
        yield (
            f"Frequent classes are recognised better than rare ones: the accuracy is {number(test['accuracy'])}, the "
            f"mean over classes {number(test['balanced_accuracy'])}."
        )


def _selected(result: dict[str, Any], evaluation: dict[str, Any]) -> Iterator[str]:
    ends, validation = _ends(evaluation), result["metrics"]["validation"].get("accuracy")
    if ends and validation is not None and not ends[0] <= validation <= ends[1]:
        yield (
            f"The validation accuracy, {number(validation)}, lies outside the interval of the test accuracy: the "
            "two splits differ, or the choice of the epoch flatters the first."
        )
    yield from held_out(result["dataset"])


def held_out(dataset: dict[str, Any]) -> Iterator[str]:
    """That the test images come from where the training's do, where they do."""
    origin = dataset["held_out"].get("test")
    if origin:
        yield (
            f"The test images were drawn from {escape(origin['from'])} by chance: where images resemble each other "
            "(one object, place or session), new ones will be harder."
        )


def of_data(dataset: dict[str, Any]) -> Iterator[str]:
    """What of the dataset was not used."""
    if dataset.get("max_samples"):
        yield f"Trained on a part of the dataset: at most {dataset['max_samples']:,} images of each of its splits."
    excluded = dataset["excluded"]
    damaged = sum(len(rows) for rows in excluded["undecodable"].values())
    unlabelled = sum(excluded["unlabelled"].values())
    listed = sum(excluded.get("listed", {}).values())
    if damaged or unlabelled or listed:
        parts = [f"{damaged:,} that do not decode"] if damaged else []
        parts += [f"{unlabelled:,} without a label"] if unlabelled else []
        parts += [f"{listed:,} that a list of its user names"] if listed else []
        yield f"Left out of the dataset's images: {' and '.join(parts)}."


def of_training(training: dict[str, Any]) -> Iterator[str]:
    """How the training ended, where it could have gone on."""
    stopped, planned = training.get("stopped_by"), training.get("planned_epochs")
    if stopped and planned:
        yield (
            f"The training was stopped by {escape(stopped)} after {training['epochs']:,} of {planned:,} epochs, "
            "before its learning rate had come down."
        )
    elif training.get("best_epoch") and training["best_epoch"] == training["epochs"] and _was_chosen(training):
        yield f"The best epoch was the last of {training['epochs']:,}: a longer training may give a better model."


def _was_chosen(training: dict[str, Any]) -> bool:
    return not str(training.get("chosen_by", "")).startswith("the last")


def _ends(evaluation: dict[str, Any]) -> list[float] | None:
    """Of the accuracy's interval."""
    ends: list[float] | None = evaluation.get("intervals", {}).get("test", {}).get("accuracy")
    return ends


def images_of(count: int) -> str:
    """`1 test image`, `2 test images`."""
    return f"{count:,} test image" + ("" if count == 1 else "s")
