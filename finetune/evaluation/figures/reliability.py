"""Reliability diagrams: how often a model is right when it is so sure, before and after temperature scaling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.evaluation.calibration import BINS
from finetune.evaluation.figures import style
from finetune.evaluation.intervals import wilson


@dataclass(frozen=True)
class Bins:
    """Confidences in bins of equal width.

    Attributes:
        count: Images, int64 `[BINS]`.
        confidence: Their mean confidence, float64 `[BINS]`; NaN where there are none.
        accuracy: The share that is right.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error."""
        used = self.count > 0
        gaps = np.abs(self.accuracy - self.confidence)[used]
        return float((gaps * self.count[used]).sum() / self.count.sum())


def bin_confidences(confidences: np.ndarray, correct: np.ndarray) -> Bins:
    """Bin float64 `[N]` confidences and bool `[N]`; a bin holds its lower edge, the last one 1 too."""
    index = np.minimum((confidences * BINS).astype(int), BINS - 1)
    count = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, weights=confidences, minlength=BINS) / count
        accuracy = np.bincount(index, weights=correct, minlength=BINS) / count
    return Bins(count, confidence, accuracy)


def draw(panels: list[tuple[str, np.ndarray]], correct: np.ndarray, of: str = "images") -> Figure:
    """Accuracy over confidence with 95 % Wilson intervals, and below it how many images have which confidence.

    Args:
        panels: Title and float64 `[N]` confidences of each column of the figure.
        correct: Bool `[N]`, whether each prediction is right.
        of: What they are predictions of.
    """
    made = style.figure(4.9)
    grid = made.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=[3.4, 1])
    for column, (title, confidences) in enumerate(panels):
        bins = bin_confidences(confidences, correct)
        _diagram(grid[0, column], bins, f"{title}: calibration error {bins.error:.4f}")
        _histogram(grid[1, column], bins, confidences)
    grid[0, 0].set_ylabel(f"share of {of} that are right")
    grid[1, 0].set_ylabel(f"share of\n{of}")
    # Below everything, where no data can be.
    made.supxlabel(
        "orange: from what was promised to what is; below the dashed line: too sure; thin lines: 95 % intervals; "
        "vertical line: mean",
        fontsize=8,
        color=style.GREY,
    )
    return made


def _diagram(axes: Axes, bins: Bins, title: str) -> None:
    axes.plot([0, 1], [0, 1], color=style.GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    used = np.flatnonzero(bins.count)
    x, y = bins.confidence[used], bins.accuracy[used]
    ends = np.array([wilson(a, n) for a, n in zip(y, bins.count[used], strict=True)])
    axes.vlines(x, np.minimum(x, y), np.maximum(x, y), color=style.ORANGE, linewidth=5, alpha=0.35, zorder=2)
    axes.errorbar(x, y, np.maximum(0, [y - ends[:, 0], ends[:, 1] - y]), fmt="none", ecolor=style.SKY, elinewidth=1.2)
    axes.plot(x, y, "o", color=style.BLUE, zorder=3, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.set_title(title)
    axes.grid()


def _histogram(axes: Axes, bins: Bins, confidences: np.ndarray) -> None:
    edges = np.linspace(0, 1, BINS + 1)
    axes.bar(edges[:-1], bins.count / bins.count.sum(), 1 / BINS, align="edge", color=style.SKY, edgecolor="white")
    axes.axvline(float(confidences.mean()), color=style.INK, linewidth=1)
    axes.set_xlabel(f"confidence (mean {confidences.mean():.3f})")
    axes.set_ylim(0, 1)
    axes.grid(axis="y")
