"""Average precision of each class with its support, and precision against recall: readable with a hundred classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.evaluation.figures import style
from finetune.tasks.multi_label.measures import precision
from finetune.tasks.multi_label.measures.predictions import MultiLabelPredictions

MOST = 40
"""Classes with a bar; of more the weakest and the strongest."""
_NAMED = 5
"""Classes whose curve has a name."""


def bars(rows: Sequence[dict[str, Any]]) -> Figure:
    """A bar for each class, the weakest first; a tick is its prevalence, and the number behind it its support.

    Args:
        rows: `evaluation.per_class.test`.
    """
    known = sorted((row for row in rows if row["average_precision"] is not None), key=_worth)
    shown = known if len(known) <= MOST else known[: MOST // 2] + known[-MOST // 2 :]
    names = style.readable([row["class"] for row in shown])
    made = style.figure(1.2 + 0.17 * len(shown) if len(shown) > 8 else 1.3 + 0.26 * len(shown))
    axes = made.add_subplot()
    places = np.arange(len(shown)) + np.where(np.arange(len(shown)) < MOST // 2, 0, len(known) > MOST)
    values = [row["average_precision"] for row in shown]
    axes.barh(places, values, height=0.72, color=style.BLUE)
    chance = [row["support"] / row["known"] for row in shown]
    axes.vlines(chance, places - 0.36, places + 0.36, color=style.ORANGE, linewidth=1.6)
    size = 8 if len(shown) <= 25 else 7
    labels = [style.shorten(made, name, size, 1.6) for name in names]
    axes.set_yticks(places, labels, fontsize=size)
    for place, row in zip(places, shown, strict=True):
        axes.text(1.01, place, f"{row['average_precision']:.2f}  {row['support']:,}", fontsize=size - 1, va="center")
    axes.set(xlim=(0, 1), ylim=(places[-1] + 0.6, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("average precision; orange: share of images that show the class; right: value, positive images")
    more = f", {len(shown)} of {len(known)}: the weakest and the strongest" if len(shown) < len(known) else ""
    axes.set_title(f"Test images by class{more}")
    axes.grid(axis="x")
    return made


def _worth(row: dict[str, Any]) -> tuple[float, str]:
    return row["average_precision"], row["class"]


def curves(test: MultiLabelPredictions, classes: Sequence[str], mean: float) -> Figure:
    """Precision against recall: of each class a thin line, of all pairs together a thick one.

    Args:
        test: What was predicted.
        classes: Names, in order.
        mean: The mean average precision.
    """
    made = style.figure(4.9)
    axes = made.add_subplot()
    logits, targets = test.arrays()
    each = precision.per_class(logits, targets)
    order = np.argsort(np.where(np.isnan(each), np.inf, each), kind="stable")[: min(_NAMED, len(classes))]
    weakest = [place for place in order.tolist() if not np.isnan(each[place])]
    names, colours = style.readable(classes), (style.ORANGE, style.GREEN, style.SKY, "#CC79A7", "#E69F00")
    for place, ranking in enumerate(precision.of_classes(logits, targets)):
        if ranking is None or not ranking.positives.any() or place in weakest:
            continue
        _curve(axes, ranking, style.GREY, 0.7, alpha=0.45)
    for place, colour in zip(weakest, colours, strict=False):
        ranking = precision.of_classes(logits[:, place : place + 1], targets[:, place : place + 1])[0]
        if ranking is not None:
            name = style.shorten(made, names[place], 8.5, 1.6)
            _curve(axes, ranking, colour, 1.4, label=f"{name} ({each[place]:.3f})")
    _curve(axes, precision.of_all(logits, targets), style.BLUE, 2.6, label="all pairs together")
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(f"Precision against recall on test images: mean average precision {mean:.4f}")
    axes.grid()
    named = "all classes" if len(weakest) == len(classes) else f"the {len(weakest)} weakest of {len(classes)} named"
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title=named, alignment="left", title_fontsize=8)
    return made


def _curve(axes: Axes, ranking: precision.Ranking, colour: str, width: float, **options: Any) -> None:
    right, count = ranking.counts()
    recall, share = right / right[-1], right / count
    axes.step([0, *recall], [share[0], *share], where="pre", color=colour, linewidth=width, **options)
