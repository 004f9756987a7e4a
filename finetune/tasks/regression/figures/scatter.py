"""Predicted against true, and what is left over."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.evaluation.figures import style

MANY = 2000
"""Images from which on points would hide each other, and their density is drawn."""


def predicted(values: np.ndarray, targets: np.ndarray, name: str, half_width: float | None, head: str) -> Figure:
    """Predicted against true numbers, with the line where both are equal and the interval around it.

    Args:
        values: Predicted, float64 `[N]`.
        targets: True, float64 `[N]`.
        name: Of the number.
        half_width: Of the interval for single predictions, if there is one.
        head: What the picture says.
    """
    made = style.figure(5.2)
    axes = made.add_subplot()
    low, high = _ends(np.concatenate([values, targets]))
    line = np.array([low, high])
    if half_width is not None:
        band = f"interval for single\npredictions, +- {half_width:.4g}"
        ends = line - half_width, line + half_width
        axes.fill_between(line, *ends, color=style.SKY, alpha=0.25, linewidth=0, label=band)
    _cloud(axes, targets, values)
    axes.plot(line, line, color=style.INK, linewidth=1, linestyle=(0, (4, 3)), label="predicted = true")
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    _label(made, axes, name, "predicted", head)
    return made


def residuals(values: np.ndarray, targets: np.ndarray, name: str, half_width: float | None) -> Figure:
    """Predicted minus true against the true number, and how often each difference occurs.

    Args:
        values: Predicted, float64 `[N]`.
        targets: True, float64 `[N]`.
        name: Of the number.
        half_width: Of the interval for single predictions, if there is one.
    """
    errors = values - targets
    made = style.figure(3.6)
    left, right = made.subplots(1, 2, width_ratios=[3, 1], sharey=True)
    if half_width is not None:
        for axes in (left, right):
            axes.axhspan(-half_width, half_width, color=style.SKY, alpha=0.25, linewidth=0)
    _cloud(left, targets, errors)
    left.axhline(0, color=style.INK, linewidth=1, linestyle=(0, (4, 3)))
    head = f"Residuals of {len(errors):,} test images: mean {errors.mean():.3g}, standard deviation {errors.std():.3g}"
    _label(made, left, name, "predicted - true", head)
    right.hist(errors, bins=min(40, max(5, len(errors) // 5)), orientation="horizontal", color=style.BLUE)
    right.set_xlabel("test images")
    right.tick_params(left=False)
    return made


def _cloud(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if len(x) > MANY:
        axes.hexbin(x, y, gridsize=60, mincnt=1, bins="log", cmap="Blues", linewidths=0.1)
    else:
        axes.plot(x, y, "o", color=style.BLUE, markersize=4 if len(x) < 300 else 2.5, alpha=0.55, markeredgewidth=0)
    axes.grid(color=style.PALE)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _label(made: Figure, axes: Axes, name: str, what: str, head: str) -> None:
    shown = style.shorten(made, style.readable([name])[0], 9, 3)
    axes.set_xlabel(f"true {shown}")
    axes.set_ylabel(what)
    axes.set_title(head)
