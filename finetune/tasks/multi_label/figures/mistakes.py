"""The most confident mistakes, with their images: classes that are missed, and that are invented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from PIL import Image

from finetune.evaluation.figures import style
from finetune.evaluation.figures.mistakes import COLUMNS, GAP, HEAD, SIDE, SIZE, TEXT, show


@dataclass(frozen=True)
class Mistake:
    """One class of one image that the model is wrong about.

    Attributes:
        image: Upright RGB.
        label: Class index.
        missed: Whether the image shows it; else it was invented.
        probability: Calibrated, of that class.
    """

    image: Image.Image
    label: int
    missed: bool
    probability: float


def draw(mistakes: Sequence[Mistake], classes: Sequence[str], count: int) -> Figure:
    """A page of images, the most confident mistake first.

    Args:
        mistakes: At least one.
        classes: Names, in order.
        count: How many there are in all.
    """
    names = style.readable(classes)
    height = HEAD + -(-len(mistakes) // COLUMNS) * (SIDE + TEXT + GAP)
    made = style.figure(height)
    made.set_layout_engine("none")
    of = f"{len(mistakes)} most confident of {count:,} mistakes" if count > len(mistakes) else f"All {count} mistakes"
    made.text(GAP / style.WIDTH, 1 - 0.12 / height, f"{of} on test images", va="top", weight="bold", size=9.5)
    legend = "blue: missed; orange: invented; with its probability"
    made.text(1 - GAP / style.WIDTH, 1 - 0.13 / height, legend, va="top", ha="right", size=8, color=style.GREY)
    for place, mistake in enumerate(mistakes):
        row, column = divmod(place, COLUMNS)
        left = GAP + column * (style.WIDTH - GAP) / COLUMNS
        top = height - HEAD - row * (SIDE + TEXT + GAP)
        show(made, mistake.image, left, top, height)
        colour = style.BLUE if mistake.missed else style.ORANGE
        name = style.shorten(made, names[mistake.label], SIZE, SIDE)
        what = "missed" if mistake.missed else "invented"
        for line, text in enumerate((name, f"{what} ({style.percent(mistake.probability)})")):
            y = (top - SIDE - 0.16 - 0.15 * line) / height
            made.text(left / style.WIDTH, y, text, va="baseline", size=SIZE, color=colour)
    return made
