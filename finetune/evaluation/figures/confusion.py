"""The confusion matrix, readable from two classes to a thousand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from finetune.evaluation.figures import style

COUNTED = 20
"""Classes up to which every cell says its count, and the matrix has the width to itself."""
_CELLS = 125  # of a side at most: smaller ones are not seen
_LISTED = 15
_RIGHT = LinearSegmentedColormap.from_list("right", ["#FFFFFF", "#8FC3E3", style.BLUE, "#003A5D"])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["#FFFFFF", "#F6B98B", style.ORANGE, "#6E2E00"])

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(pairs: Pairs, classes: Sequence[str], what: str = "Test images", by_share: bool = False) -> Figure:
    """Rows are true classes, columns predicted ones; blue is right, orange wrong, the stronger the more of the row.

    Above `COUNTED` classes the largest confusions are listed beside, and as many ticks are labelled as there is room.

    Args:
        pairs: Targets, predicted classes and number of images, int64 `[K]` each.
        classes: Names, in order.
        what: Is counted.
        by_share: Whether cells say shares of the true class, where counts are too long.
    """
    names, count = style.readable(classes), len(classes)
    if count <= COUNTED:
        made = style.figure(min(8.2, 2.6 + 0.34 * count))
        _matrix(made, made.add_subplot(), pairs, names, 1.5, 8.0, what, by_share)
        return made
    made = style.figure(6.2)
    left, right = made.subplots(1, 2, width_ratios=[5.3, 2.7])
    left.set_anchor("NW")
    _matrix(made, left, pairs, names, 0.95, 6.5, what, by_share)
    _largest(made, right, pairs, names)
    return made


def shares(pairs: Pairs, count: int) -> np.ndarray:
    """Share of each true class that was predicted as each class, float64 `[S, S]`; NaN where a class has no images.

    S is `count`, or less where cells would be too small to see: then a cell is the largest of a block of them, but the
    diagonal is only compared with itself.
    """
    targets, labels, images = pairs
    support = np.bincount(targets, weights=images, minlength=count)
    block = -(-count // _CELLS)
    side = -(-count // block)
    cells = np.zeros((side, side))
    for right in (False, True):  # what is right goes last, and takes the diagonal's place
        chosen = (targets == labels) == right
        rows, columns = targets[chosen] // block, labels[chosen] // block
        largest = np.zeros((side, side))
        np.maximum.at(largest, (rows, columns), images[chosen] / support[targets[chosen]])
        cells = np.where(np.eye(side, dtype=bool), largest, cells) if right else largest
    present = np.add.reduceat(support, np.arange(0, count, block)) > 0
    cells[~present] = np.nan
    return cells


def _colours(cells: np.ndarray) -> np.ndarray:
    """RGB `[S, S, 3]` in [0, 1]: by the square root, and never nearly white, so that small shares are seen."""
    present = np.nan_to_num(cells) > 0
    strength = np.where(present, 0.2 + 0.8 * np.sqrt(np.nan_to_num(cells)), 0)
    diagonal = np.eye(len(cells), dtype=bool)[..., None]
    image = np.where(diagonal, _RIGHT(strength)[..., :3], _WRONG(strength)[..., :3])
    image[np.isnan(cells)] = 0.93
    return image


def _matrix(
    made: Figure,
    axes: Axes,
    pairs: Pairs,
    names: Sequence[str],
    label_inches: float,
    size: float,
    what: str,
    by_share: bool,
) -> None:
    count = len(names)
    targets, labels, images = pairs
    cells = shares(pairs, count)
    image = _colours(cells)
    # Cell i covers [i - 0.5, i + 0.5], whatever the number of cells in the picture.
    axes.imshow(image, extent=(-0.5, count - 0.5, count - 0.5, -0.5), interpolation="nearest", aspect="equal")
    if count <= COUNTED:
        _counts(axes, pairs, image, by_share)
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.2)
        axes.tick_params(which="minor", length=0)
        _recall(axes, pairs, count)
    step = -(-count // 34)  # labels that a side of the matrix has room for
    ticks = list(range(0, count, step))
    shown = [style.shorten(made, names[i], size, label_inches) for i in ticks]
    column = (made.get_figheight() - 1.6) / count  # inches
    upright = max(style.width_of(made, name, size) for name in shown) > 0.9 * column
    axes.set_yticks(ticks, shown, fontsize=size)
    axes.set_xticks(ticks, shown, fontsize=size, rotation=90 if upright else 0)
    axes.tick_params(length=0 if count <= COUNTED else 2)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    block = -(-count // _CELLS)
    notes = [f"every {step}{_ordinal(step)} class is named"] if step > 1 else []
    notes += [f"each cell is the largest of {block} x {block}"] if block > 1 else []
    axes.set_ylabel(f"true ({'; '.join(notes)})" if notes else "true")
    right = int(images[targets == labels].sum())
    head = f"{what} by class: {right:,} of {int(images.sum()):,} right"
    inch = 1 / made.get_figheight()
    made.suptitle(head, x=0.01, ha="left", fontsize=9.5, weight="bold")
    key = "blue is right, orange wrong; the darker, the more of the true class"
    made.text(0.99, 1 - 0.05 * inch, key, ha="right", va="top", fontsize=7.5, color=style.GREY)


def _ordinal(number: int) -> str:
    teen = number % 100 in (11, 12, 13)
    return "th" if teen else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _counts(axes: Axes, pairs: Pairs, image: np.ndarray, by_share: bool) -> None:
    support = np.bincount(pairs[0], weights=pairs[2], minlength=len(image))
    for row, column, images in zip(*pairs, strict=True):
        luminance = image[row, column] @ (0.299, 0.587, 0.114)
        axes.text(
            column,
            row,
            style.percent(images / support[row]) if by_share else f"{images:,}",
            ha="center",
            va="center",
            fontsize=8 if images < 1000 and not by_share else 6.5,
            color="white" if luminance < 0.55 else style.INK,
        )


def _recall(axes: Axes, pairs: Pairs, count: int) -> None:
    """A column beside the matrix: how much of each true class is right."""
    targets, labels, images = pairs
    support = np.bincount(targets, weights=images, minlength=count)
    right = np.bincount(targets, weights=images * (targets == labels), minlength=count)
    axes.text(count - 0.35, -0.55, "recall", fontsize=8, va="bottom", color=style.GREY)
    for row in np.flatnonzero(support):
        axes.text(count - 0.35, float(row), style.percent(right[row] / support[row]), fontsize=8, va="center")


def _largest(made: Figure, axes: Axes, pairs: Pairs, names: Sequence[str]) -> None:
    """The confusions of most images, in words."""
    style.bare(axes)
    axes.set_title("Largest confusions", fontsize=8.5)
    targets, labels, images = pairs
    support = np.bincount(targets, weights=images).astype(int)
    wrong = np.flatnonzero(targets != labels)
    ranked = sorted(wrong, key=lambda i: (-images[i], -images[i] / support[targets[i]], i))
    axes.set(xlim=(0, 1), ylim=(_LISTED, 0))
    for line, i in enumerate(ranked[:_LISTED]):
        true = style.shorten(made, names[targets[i]], 8, 1.7)
        predicted = style.shorten(made, names[labels[i]], 8, 2.0)
        axes.text(0, line + 0.3, true, fontsize=8, va="center")
        axes.text(1, line + 0.3, f"{images[i]:,} of {support[targets[i]]:,}", fontsize=8, va="center", ha="right")
        axes.text(0.03, line + 0.68, f"\N{RIGHTWARDS ARROW} {predicted}", fontsize=8, va="center", color=style.ORANGE)
    if not len(wrong):
        axes.text(0, 0.3, "none", fontsize=8, va="center")
