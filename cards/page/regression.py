"""A regression's parts of the page: its floors, its interval and figures, and what it warns of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cards.page.limitations import of_data, of_training
from cards.page.text import escape, number

__all__ = ["FIGURES", "floors", "limitations", "sections"]

FIGURES = {
    "predicted": "Predicted against true numbers of the test images",
    "residuals": "Residuals of the test images",
    "mistakes": "Largest errors on the test images",
    "curves": "Learning curves",
}
FEW = 100
"""Test images below which scores are said to be rough, validation images below which the interval is."""
OFF = 0.05
"""Coverage short of what the interval promises, from which on it is pointed out."""


def sections(result: dict[str, Any], model: Path) -> dict[str, Any]:
    """The template's variables, see `cards.page.data.sections`."""
    evaluation, test, dataset = result.get("evaluation") or {}, result["metrics"]["test"], result["dataset"]
    ends = evaluation.get("intervals", {}).get("test", {}).get("mae")
    floor, spread = evaluation.get("median"), dataset.get("numbers", {}).get("train")
    return {
        "target": escape(dataset["target_column"]),
        "mae": number(test["mae"]) if "mae" in test else None,
        "mae_interval": f"{number(ends[0])} to {number(ends[1])}" if ends else None,
        "floor": number(floor["test"]) if floor else None,
        "floor_value": f"{floor['value']:.6g}" if floor else None,
        "spread": {name: f"{value:.6g}" for name, value in spread.items()} if spread else None,
        "interval": _interval(evaluation.get("calibration")),
    }


def _interval(found: dict[str, Any] | None) -> dict[str, str] | None:
    if not found:
        return None
    return {
        "half_width": repr(float(found["half_width"])),
        "shown": f"{found['half_width']:.4g}",
        "level": f"{100 * found['level']:g}",
        "images": f"{found['images']:,}",
        "coverage": f"{100 * found['test']['coverage']:.1f}",
    }


def floors(evaluation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of the table of results, below the scores."""
    rows = []
    if floor := evaluation.get("median"):
        answer = f"Mean absolute error of always answering {floor['value']:.6g}, the median of the training images"
        rows.append((answer, number(floor["test"]), "", number(floor["validation"])))
    if probe := evaluation.get("probe"):
        low, high = probe["intervals"]["test"]["mae"]
        text = f"Mean absolute error of ridge regression on the frozen features of {probe['images']:,} training images"
        test_score, validation_score = (number(probe[role]["mae"]) for role in ("test", "validation"))
        rows.append((text, test_score, f"{number(low)} to {number(high)}", validation_score))
    return rows


def limitations(result: dict[str, Any]) -> list[str]:
    """Sentences in Markdown, the most serious first; what result.json has no number for is left out."""
    evaluation, dataset = result.get("evaluation") or {}, result["dataset"]
    return [
        *_floor(evaluation),
        *_probe(evaluation.get("probe")),
        *_few(dataset["splits"]["test"]),
        *_coverage(evaluation.get("calibration")),
        *_held_out(dataset),
        *of_data(dataset),
        *of_training(result["training"]),
        *_range(dataset.get("numbers", {}).get("train")),
    ]


def _floor(evaluation: dict[str, Any]) -> Iterator[str]:
    floor, ends = evaluation.get("median"), evaluation.get("intervals", {}).get("test", {}).get("mae")
    if floor and ends and ends[1] >= floor["test"]:
        yield (
            f"**Not shown to be better than no model:** always answering {floor['value']:.6g} has a mean absolute "
            f"error of {number(floor['test'])} on the test images, which is not above the interval of this model's."
        )


def _probe(probe: dict[str, Any] | None) -> Iterator[str]:
    """That ridge regression on frozen features does as well, where it does."""
    difference = (probe or {}).get("difference")
    if difference and difference["interval"][1] >= 0:
        low, high = difference["interval"]
        yield (
            "Ridge regression on the same pretrained weights, without any finetuning, does as well on the test images: "
            f"the difference in mean absolute error is {number(difference['mae'])}, with an interval from "
            f"{number(low)} to {number(high)}."
        )


def _few(images: int) -> Iterator[str]:
    if images < FEW:
        yield f"{images:,} test images are few to judge by: all scores are rough."


def _coverage(found: dict[str, Any] | None) -> Iterator[str]:
    if not found:
        yield "It has no interval for single predictions: there were too few validation images to fit one."
        return
    covered = found["test"]["coverage"]
    if covered < found["level"] - OFF:
        yield (
            f"Its interval for single predictions held {100 * covered:.1f}% of the test images, and not the "
            f"{100 * found['level']:g}% that it is meant to hold."
        )
    if found["images"] < FEW:
        yield f"Its interval was fitted on {found['images']:,} validation images, which are few."
    yield "The interval is as wide for easy images as for hard ones."


def _held_out(dataset: dict[str, Any]) -> Iterator[str]:
    if origin := dataset["held_out"].get("test"):
        yield (
            f"The test images were drawn from {escape(origin['from'])} by chance: where images resemble each other "
            "(one object, place or session), new ones will be harder."
        )


def _range(spread: dict[str, float] | None) -> Iterator[str]:
    known = f", of numbers from {spread['min']:.6g} to {spread['max']:.6g}" if spread else ""
    yield (
        "It answers with a number for any image, also for one of something else, and was tested on images of this "
        f"dataset only{known}."
    )
