"""The pictures of a finished run, in model/figures/."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from finetune.data import images
from finetune.evaluation.assessment import write_table
from finetune.evaluation.figures import confusion, curves, reliability, style
from finetune.evaluation.figures.drawing import attempt
from finetune.tasks.segmentation import assessment, palette
from finetune.tasks.segmentation.collector import MaskPredictions
from finetune.tasks.segmentation.network import SegmentationNetwork
from finetune.tasks.segmentation.scores import VOID, largest, matrix

BARS = 40
"""Classes with a bar at most; above, the worst and the best."""
_SIDE = 512
"""Pixels of a drawn image's long side at most."""


@dataclass(frozen=True)
class Example:
    """A test image.

    Attributes:
        picture: uint8 `[H, W, 3]`.
        truth: uint8 `[H, W]`, with void.
        answer: uint8 `[H, W]`.
        title: What it is an example of.
    """

    picture: np.ndarray
    truth: np.ndarray
    answer: np.ndarray
    title: str


@dataclass(frozen=True)
class Subject:
    """What there is to draw of a run.

    Attributes:
        test: What was predicted.
        evaluation: Of result.json.
        classes: Names.
        metrics: metrics.csv.
        best_epoch: From 1.
        examples: Made when they are asked for.
    """

    test: MaskPredictions
    evaluation: dict[str, Any]
    classes: tuple[str, ...]
    metrics: Path
    best_epoch: int | None
    examples: Callable[[], list[Example]]


Sample = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""Place in the test split -> float32 `[3, h, w]`, normalised, and the mask, uint8 `[H, W]`."""


def add(
    result: Any, test: MaskPredictions, data: Any, folder: Any, sample: Sample, network: SegmentationNetwork
) -> Any:
    """Draw a finished run's figures, write the per-class table, and save in result.json which there are.

    Args:
        result: With its evaluation.
        test: Predictions of the test split.
        data: With the test images.
        folder: Of the run.
        sample: Gives test images as the network sees them.
        network: The exported one.

    Raises:
        OSError: The disk is full.
    """
    examples = partial(_examples, test, data, sample, network.eval())
    best = result.training["best_epoch"]
    subject = Subject(test, result.evaluation, data.schema.classes, folder.metrics, best, examples)
    target = folder.model / "figures"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    made = {}
    for name, draw in FIGURES.items():
        path = target / f"{name}.png"
        if attempt(f"figure {name}", partial(_save, draw, subject, path, name == "examples")):
            made[name] = f"{target.name}/{path.name}"
    rows = result.evaluation["per_class"]["test"]
    attempt("per_class.csv", lambda: write_table(target / "per_class.csv", rows))
    result = dataclasses.replace(result, evaluation=result.evaluation | {"figures": made})
    result.save(folder.result)
    return result


def _save(draw: Callable[[Subject], Figure | None], subject: Subject, path: Path, photographs: bool) -> bool:
    with style.style():
        made = draw(subject)
        if made is not None:
            style.save(made, path, limit=900_000 if photographs else 300_000, photographs=photographs)
    return made is not None


# --- examples


def chosen(scores: np.ndarray) -> list[tuple[int, str]]:
    """Images to show, by their own mean IoU: the best, one in the middle, the two worst; each once.

    Args:
        scores: float64 `[N]`; NaN of images that are void.
    """
    order = [int(i) for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
    if not order:
        return []
    titles = {order[0]: "best"}
    for place, title in ((-1, "worst"), (-2, "second worst"), ((len(order) - 1) // 2, "median")):
        if -place <= len(order):
            titles.setdefault(order[place], title)
    return [(place, titles[place]) for place in order if place in titles]


def _examples(test: MaskPredictions, data: Any, sample: Sample, network: SegmentationNetwork) -> list[Example]:
    scores = assessment.of_images(test)
    picked = chosen(scores)
    pictures = [images.decode(value) for value in data.values("test", [place for place, _ in picked])]
    found = []
    for (place, title), picture in zip(picked, pictures, strict=True):
        pixels, mask = sample(place)
        answer = answered(network, pixels, (mask.shape[0], mask.shape[1]))
        shown = np.asarray(picture.resize((mask.shape[1], mask.shape[0])))
        found.append(Example(shown, mask.numpy(), answer.numpy(), f"{title}: mean IoU {scores[place]:.3f}"))
    return found


def answered(network: SegmentationNetwork, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 `[H, W]`, on the CPU: a network's answer to one prepared image, at the image's own size."""
    with torch.inference_mode():
        return largest(network.whole(pixels), size).cpu()


def examples(subject: Subject) -> Figure | None:
    """Rows of a test image, its mask, the answer, and where the answer is wrong."""
    shown = [_small(example) for example in subject.examples()]
    if not shown:
        return None
    classes = len(subject.classes)
    ratios = [example.picture.shape[0] / example.picture.shape[1] for example in shown]
    pixels = [part.ravel() for example in shown for part in (example.truth, example.answer)]
    used = [number for number in np.unique(np.concatenate(pixels)).tolist() if number != VOID]
    lines = -(-min(len(used), 24) // 5)
    heights = [min(2.2, 1.85 * ratio) + 0.28 for ratio in ratios]
    made = style.figure(sum(heights) + 0.25 + 0.22 * lines)
    grid = made.subplots(len(shown), 4, squeeze=False, height_ratios=heights)
    for row, example in zip(grid, shown, strict=True):
        wrong = (example.truth != example.answer) & (example.truth != VOID)
        grey = np.repeat(example.picture.mean(axis=2, keepdims=True), 3, axis=2) * 0.45 + 140
        errors = np.where(wrong[..., None], np.array([213, 94, 0]), grey).astype(np.uint8)
        parts = (
            example.picture,
            palette.painted(example.truth, classes),
            palette.painted(example.answer, classes),
            errors,
        )
        for axes, part in zip(row, parts, strict=True):
            axes.imshow(part, interpolation="nearest")
            style.bare(axes)
        row[0].set_title(example.title, fontsize=8)
    for axes, title in zip(grid[0][1:], ("mask (void is white)", "answer", "wrong, in orange"), strict=True):
        axes.set_title(title, fontsize=8)
    names = style.readable(subject.classes)
    colours = palette.colours(classes) / 255
    handles = [Patch(color=colours[i], label=style.shorten(made, names[i], 8, 1.2)) for i in used[:24]]
    made.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), fontsize=8)
    return made


def _small(example: Example) -> Example:
    """The same with fewer pixels."""
    step = max(1, -(-max(example.truth.shape) // _SIDE))
    picture, truth, answer = (part[::step, ::step] for part in (example.picture, example.truth, example.answer))
    return Example(picture, truth, answer, example.title)


# --- numbers


def bars(subject: Subject) -> Figure | None:
    """IoU of each class, with how many of the test pixels it has."""
    rows = [row for row in subject.evaluation["per_class"]["test"] if row["iou"] is not None]
    if not rows:
        return None
    total = sum(row["pixels"] for row in rows)
    named = dict(zip(subject.classes, style.readable(subject.classes), strict=True))
    rows = sorted(rows, key=lambda row: -row["iou"])
    dropped = len(rows) - BARS
    if dropped > 0:
        rows = [*rows[: BARS // 2], *rows[-BARS // 2 :]]
    made = style.figure(1.0 + 0.2 * len(rows))
    axes = made.add_subplot()
    heights = np.arange(len(rows))
    axes.barh(heights, [row["iou"] for row in rows], color=style.BLUE, height=0.68)
    for height, row in zip(heights.tolist(), rows, strict=True):
        text = f"{row['iou']:.3f}   ({style.percent(row['pixels'] / total, 1)} of the pixels)"
        axes.text(row["iou"] + 0.01, height, text, va="center", fontsize=7.5, color=style.INK)
    axes.set_yticks(heights, [style.shorten(made, named[row["class"]], 8, 1.6) for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.32), xlabel="IoU on the test images")
    axes.set_xticks(np.linspace(0, 1, 6))
    mean = float(np.mean([row["iou"] for row in subject.evaluation["per_class"]["test"] if row["iou"] is not None]))
    _mark(axes, mean)
    axes.set_title(f"IoU by class{f'; {dropped} classes in the middle are left out' if dropped > 0 else ''}")
    return made


def _mark(axes: Axes, mean: float) -> None:
    axes.axvline(mean, color=style.ORANGE, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
    place: dict[str, Any] = {"ha": "center", "va": "bottom", "transform": axes.get_xaxis_transform()}
    axes.text(mean, 1.0, f"mean {mean:.3f}", color=style.ORANGE, fontsize=8, **place)


def confusions(subject: Subject) -> Figure:
    """Of pixels, in thousandths of each true class."""
    found = matrix(subject.test.pairs[:, 1:], len(subject.classes)).numpy()
    rows, columns = np.nonzero(found)
    return confusion.draw((rows, columns, found[rows, columns]), subject.classes, "Test pixels", by_share=True)


def learning(subject: Subject) -> Figure | None:
    """Curves of loss, mean IoU and rate."""
    columns = curves.read(subject.metrics)
    return curves.draw(columns, subject.best_epoch, SCORES) if columns else None


def reliabilities(subject: Subject) -> Figure | None:
    """Confidence against accuracy, of the sampled pixels."""
    found = subject.evaluation.get("calibration")
    if not found:
        return None
    sample = subject.test.sample
    panels = [("As it is", sample.confidences().numpy())]
    if found["temperature"] != 1:
        panels.append((f"At temperature {found['temperature']:.2f}", sample.confidences(found["temperature"]).numpy()))
    return reliability.draw(panels, sample.correct.numpy(), "pixels")


SCORES: Sequence[tuple[str, str, str]] = (
    ("val_mean_iou", "mean IoU", style.BLUE),
    ("val_pixel_accuracy", "pixel accuracy", style.GREEN),
)
FIGURES: dict[str, Callable[[Subject], Figure | None]] = {
    "examples": examples,
    "iou": bars,
    "confusion": confusions,
    "reliability": reliabilities,
    "curves": learning,
}
