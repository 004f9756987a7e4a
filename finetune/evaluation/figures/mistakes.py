"""The most confident mistakes, with their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from PIL import Image

from finetune.evaluation.figures import style

COLUMNS = 6
SIDE, TEXT, GAP, HEAD = 1.22, 0.42, 0.12, 0.38
"""Inches: of an image, of the text below it, between, and of the head of the page."""
SIZE = 7.0
"""Points."""


@dataclass(frozen=True)
class Mistake:
    """One image that the model is wrong about.

    Attributes:
        image: Upright RGB.
        target: Its class index.
        label: The predicted one.
        confidence: Calibrated probability of that.
    """

    image: Image.Image
    target: int
    label: int
    confidence: float


@dataclass(frozen=True)
class Shown:
    """An image and what stands below it.

    Attributes:
        image: Upright RGB.
        true: The first line.
        said: The second, behind an arrow.
        right: At its right end.
    """

    image: Image.Image
    true: str
    said: str
    right: str


def draw(mistakes: Sequence[Mistake], classes: Sequence[str], count: int) -> Figure:
    """A page of images, the most confident mistake first, each with its class, the predicted one and how sure.

    Args:
        mistakes: At least one.
        classes: Names, in order.
        count: How many mistakes there are in all.
    """
    names = style.readable(classes)
    of = f"{len(mistakes)} most confident of {count:,} mistakes" if count > len(mistakes) else f"All {count} mistakes"
    shown = [Shown(one.image, names[one.target], names[one.label], style.percent(one.confidence)) for one in mistakes]
    legend = "true class, \N{RIGHTWARDS ARROW} predicted class and its probability"
    return page(shown, f"{of} on test images", legend)


def page(shown: Sequence[Shown], head: str, legend: str) -> Figure:
    """A page of images, each with two lines of text.

    Args:
        shown: At least one.
        head: Of the page.
        legend: What the lines are.
    """
    rows = -(-len(shown) // COLUMNS)
    height = HEAD + rows * (SIDE + TEXT + GAP)
    made = style.figure(height)
    made.set_layout_engine("none")
    made.text(GAP / style.WIDTH, 1 - 0.12 / height, head, va="top", weight="bold", size=9.5)
    made.text(1 - GAP / style.WIDTH, 1 - 0.13 / height, legend, va="top", ha="right", size=8, color=style.GREY)
    for place, one in enumerate(shown):
        row, column = divmod(place, COLUMNS)
        left = GAP + column * (style.WIDTH - GAP) / COLUMNS
        top = height - HEAD - row * (SIDE + TEXT + GAP)
        show(made, one.image, left, top, height)
        _say(made, one, left, top - SIDE, height)
    return made


def _say(made: Figure, shown: Shown, left: float, top: float, height: float) -> None:
    """Two lines of text below (left, top) in inches; each piece apart, for a name may run from right to left."""
    arrow = 0.14
    room = SIDE - arrow - style.width_of(made, f" {shown.right}", SIZE)
    target = style.shorten(made, shown.true, SIZE, SIDE)
    label = style.shorten(made, shown.said, SIZE, room)
    for text, x, line, align, colour in (
        (target, 0.0, 0, "left", style.INK),
        ("\N{RIGHTWARDS ARROW}", 0.0, 1, "left", style.ORANGE),
        (label, arrow, 1, "left", style.ORANGE),
        (shown.right, SIDE, 1, "right", style.ORANGE),
    ):
        y = (top - 0.16 - 0.15 * line) / height
        made.text((left + x) / style.WIDTH, y, text, ha=align, va="baseline", size=SIZE, color=colour)


def show(made: Figure, image: Image.Image, left: float, top: float, height: float) -> None:
    """The whole image, as large as fits into a square whose upper left corner is at (left, top) inches."""
    pixels = round(SIDE * style.DPI)
    small = max(image.size) < pixels / 4
    scale = pixels / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    wide, high = size[0] / style.DPI, size[1] / style.DPI
    box = (left / style.WIDTH, (top - (SIDE + high) / 2) / height, wide / style.WIDTH, high / height)
    axes = made.add_axes(box)
    axes.imshow(image, aspect="auto")
    style.bare(axes)
