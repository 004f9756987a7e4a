"""The score against the number of training images, the power law through it, and what it says of twice as many."""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from finetune.evaluation.figures import style
from finetune.evaluation.figures.drawing import attempt
from finetune.evaluation.study.learning_curve import Curve
from finetune.runs.result import RunResult
from finetune.runs.runfolder import RunFolder

NAME = "shares"


def add(result: RunResult, folder: RunFolder) -> RunResult:
    """Draw it into model/figures, and name it in result.json; nothing where there is no `evaluation.curve`.

    Args:
        result: Saved, with the figures that there are.
        folder: Of the run.

    Raises:
        OSError: The disk is full.
    """
    if "curve" not in result.evaluation:
        return result
    curve = Curve.of(result.evaluation["curve"])
    path = folder.model / "figures" / f"{NAME}.png"

    def make() -> bool:
        with style.style():
            style.save(draw(curve), path)
        return True

    if not attempt(f"figure {NAME}", make):
        return result
    named = result.evaluation.get("figures", {}) | {NAME: f"{path.parent.name}/{path.name}"}
    result = dataclasses.replace(result, evaluation=result.evaluation | {"figures": named})
    result.save(folder.result)
    return result


def draw(curve: Curve) -> Figure:
    """Points with their intervals, the law with its band, and the point at twice the images.

    Args:
        curve: With two sizes at least.
    """
    made = style.figure(3.2)
    axes = made.subplots()
    images = np.array([point.images for point in curve.points])
    scores = np.array([point.score for point in curve.points])
    ends = np.array([point.interval for point in curve.points]).T
    if curve.law is not None:
        at = [point.images for point in curve.law.line]
        low, high = np.array([point.interval for point in curve.law.line]).T
        axes.fill_between(at, low, high, color=style.BLUE, alpha=0.15, linewidth=0)
        axes.plot(at, [point.score for point in curve.law.line], color=style.BLUE, label="power law")
    # An interval may lie beside a score that resamples of few images hardly ever give.
    errors = np.abs(np.stack([np.minimum(ends[0] - scores, 0), np.maximum(ends[1] - scores, 0)]))
    axes.errorbar(images, scores, errors, fmt="o", color=style.INK, capsize=3, label="measured")
    ticks = [*images.tolist()]
    if curve.doubled is not None:
        score, (least, most) = curve.doubled
        twice = 2 * int(images[-1])
        beside = [[max(0.0, score - least)], [max(0.0, most - score)]]
        axes.errorbar([twice], [score], beside, fmt="o", color=style.ORANGE, capsize=3, label="twice the images")
        ticks.append(twice)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training images")
    axes.set_title(f"Test {curve.title}, with 95 % intervals over the test images")
    axes.grid(axis="y")
    axes.legend(loc="lower right" if curve.higher else "upper right")
    return made
