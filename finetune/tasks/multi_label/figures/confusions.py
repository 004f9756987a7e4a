"""Which classes are missed where which others are invented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from finetune.evaluation.figures import style

COUNTED = 20
"""Classes up to which every cell says its count; of more the pairs of most images are listed."""
_LISTED = 30


def draw(matrix: np.ndarray, classes: Sequence[str], support: np.ndarray) -> Figure:
    """Images in which the class of a row is missed and that of a column invented; a last column has all missed.

    Args:
        matrix: int64 `[K, K]`, as `judging.taken_for` gives it.
        classes: Names, in order.
        support: int64 `[K]`, test images that show each class.
    """
    names = style.readable(classes)
    if len(classes) > COUNTED:
        return _list(matrix, names, support)
    count = len(classes)
    made = style.figure(min(8.2, 2.4 + 0.32 * count))
    axes = made.add_subplot()
    others = matrix.astype(float)
    np.fill_diagonal(others, 0)
    axes.imshow(
        np.where(others > 0, others, np.nan), cmap="Oranges", vmin=0, vmax=max(others.max() * 1.4, 1), aspect="auto"
    )
    for row in range(count):
        for column in range(count):
            if row != column and matrix[row, column]:
                axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=8)
        missed = f"{matrix[row, row]:,} of {support[row]:,}"
        axes.text(count - 0.35, row, missed, fontsize=8, va="center")
    axes.text(count - 0.35, -0.58, "missed", fontsize=8, va="bottom", color=style.GREY)
    shown = [style.shorten(made, name, 8, 1.5) for name in names]
    upright = max(style.width_of(made, name, 8) for name in shown) > 4.5 / count
    axes.set_yticks(range(count), shown)
    axes.set_xticks(range(count), shown, rotation=90 if upright else 0)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=style.PALE, linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="invented in the same image", ylabel="missed")
    made.suptitle("Test images in which one class is taken for another", x=0.01, ha="left", fontsize=9.5, weight="bold")
    return made


def _list(matrix: np.ndarray, names: Sequence[str], support: np.ndarray) -> Figure:
    """The pairs of most images, in words."""
    others = matrix.copy()
    np.fill_diagonal(others, 0)
    order = np.argsort(-others, axis=None, kind="stable")[:_LISTED]
    pairs = [divmod(int(place), len(names)) for place in order if others.flat[place]]
    made = style.figure(0.8 + 0.2 * max(len(pairs), 1))
    axes = made.add_subplot()
    style.bare(axes)
    axes.set_title("Test images in which one class is missed and another invented, most frequent pairs first")
    axes.set(xlim=(0, 1), ylim=(max(len(pairs), 1), 0))
    for line, (missed, invented) in enumerate(pairs):
        axes.text(0, line + 0.5, style.shorten(made, names[missed], 8, 2.6), fontsize=8, va="center")
        name = style.shorten(made, names[invented], 8, 2.8)
        axes.text(0.38, line + 0.5, f"\N{RIGHTWARDS ARROW} {name}", fontsize=8, va="center", color=style.ORANGE)
        said = f"{others[missed, invented]:,} of {support[missed]:,}"
        axes.text(1, line + 0.5, said, fontsize=8, va="center", ha="right")
    if not pairs:
        axes.text(0, 0.5, "none", fontsize=8, va="center")
    return made
