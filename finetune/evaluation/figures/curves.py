"""Learning curves."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetune.evaluation.figures import style

Line = tuple[str, str, str]
_LOSSES: tuple[Line, ...] = (("train_loss", "training", style.ORANGE), ("val_loss", "validation", style.BLUE))
SCORES: tuple[Line, ...] = (
    ("val_accuracy", "accuracy", style.BLUE),
    ("val_balanced_accuracy", "balanced accuracy", style.GREEN),
)
"""Column, name and colour; the first is the one that chooses, and the second may lie on it."""
_RATE: tuple[Line, ...] = (("lr", "", style.GREY),)


def read(path: Path) -> dict[str, np.ndarray]:
    """metrics.csv as float64 columns; NaN where a cell is empty."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0]) if rows else []
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def draw(columns: dict[str, np.ndarray], best_epoch: int | None, shown: Sequence[Line]) -> Figure:
    """Loss, validation scores and learning rate by epoch, the epoch that was kept marked.

    Args:
        columns: As `read` gives them; `epoch` counts from 1, and 0 is the linear probe: a level, not a part of a curve.
        best_epoch: Of the exported weights, from 1; 0 for the probe.
        shown: The validation scores: column, name, colour; the first is the one that is marked.
    """
    probe = {name: values[columns["epoch"] == 0] for name, values in columns.items()}
    columns = {name: values[columns["epoch"] > 0] for name, values in columns.items()}
    made = style.figure(5.6)
    losses, scores, rate = made.subplots(3, 1, sharex=True, height_ratios=[2, 2, 1])
    level = "linear probe, kept" if best_epoch == 0 else "linear probe"
    _level(losses, probe, "val_loss", level)
    _lines(losses, columns, _LOSSES)
    losses.set_title("Loss")
    _level(scores, probe, shown[0][0], level)
    _lines(scores, columns, shown)
    scores.set_title("Validation scores")
    _lines(rate, columns, _RATE)
    rate.set_title("Learning rate at the end of the epoch")
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=False)
    rate.yaxis.get_offset_text().set_fontsize(8)
    rate.set_xlabel("epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (losses, scores, rate):
        axes.grid(axis="y")
        axes.margins(x=0.02)
        if best_epoch:
            axes.axvline(best_epoch, color=style.GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    if best_epoch:
        _mark(scores, columns, best_epoch, shown[0][0])
    return made


def _level(axes: Axes, probe: dict[str, np.ndarray], column: str, label: str) -> None:
    """What the linear probe reached on validation."""
    if len(probe.get(column, ())):
        axes.axhline(probe[column][0], color=style.BLUE, linewidth=1.2, linestyle=(0, (1, 2)), label=label)


def _lines(axes: Axes, columns: dict[str, np.ndarray], lines: Iterable[Line]) -> None:
    for column, label, colour in lines:
        if column in columns and np.isfinite(columns[column]).any():
            few = len(columns["epoch"]) <= 20
            dashes = (0, (3, 2)) if colour == style.GREEN else "-"  # it often lies on the accuracy
            axes.plot(
                columns["epoch"],
                columns[column],
                color=colour,
                marker="o" if few else "",
                label=label,
                linestyle=dashes,
            )
    if any(not text.startswith("_") for text in axes.get_legend_handles_labels()[1]):
        # Above the axes, where no line can run under it.
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1, handlelength=1.4)


def _mark(axes: Axes, columns: dict[str, np.ndarray], best_epoch: int, column: str) -> None:
    """Say which epoch was kept, and its score."""
    at = np.flatnonzero(columns["epoch"] == best_epoch)
    if not len(at) or column not in columns:
        return
    score = columns[column][at[0]]
    left = best_epoch > columns["epoch"].mean()
    axes.plot([best_epoch], [score], "o", markersize=8, color=style.BLUE, markeredgecolor="white")
    axes.annotate(
        f"kept: epoch {best_epoch}, {style.number(score)}",
        (best_epoch, 0.04 if score >= np.nanmean(columns[column]) else 0.86),  # away from the curve
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        fontsize=8.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85},
    )
