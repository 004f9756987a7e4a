"""Draws objects into an image: for the figures, for `predict --overlay`, for nothing else than PIL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finetune.tasks.detection.reads.masks import decoded

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
"""Of the classes, by turns: Okabe and Ito's."""
_ALPHA = 0.45


@dataclass(frozen=True)
class Shown:
    """An object to draw.

    Attributes:
        box: xyxy, in pixels.
        text: Beside it; may be empty.
        colour: For instance `#0072B2`.
        mask: COCO's run lengths at the image's size, if any.
    """

    box: Sequence[float]
    text: str
    colour: str
    mask: Any = None


def colour(label: int) -> str:
    """Of a class."""
    return COLOURS[label % len(COLOURS)]


def draw(image: Image.Image, objects: Sequence[Shown]) -> Image.Image:
    """The image with its objects, the last ones on top; lines are as thick as suits its size."""
    picture = image.convert("RGB")
    if any(one.mask for one in objects):
        picture = _filled(picture, objects)
    pen = ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 250))
    font = ImageFont.load_default(size=max(9, round(min(picture.size) / 32)))
    for one in objects:
        pen.rectangle(_ordered(one.box), outline=one.colour, width=width)
    for one in objects:
        if one.text:
            _label(pen, one, font, picture.size)
    return picture


def _ordered(box: Sequence[float]) -> list[float]:
    x0, y0, x1, y1 = (float(side) for side in box)
    return [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]


def _filled(picture: Image.Image, objects: Sequence[Shown]) -> Image.Image:
    pixels = np.array(picture, dtype=np.float32)
    for one in objects:
        if one.mask:
            inside = decoded(one.mask).astype(bool)
            ink = np.array([int(one.colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32)
            pixels[inside] = (1 - _ALPHA) * pixels[inside] + _ALPHA * ink
    return Image.fromarray(pixels.round().astype(np.uint8))


def _label(pen: ImageDraw.ImageDraw, one: Shown, font: Any, size: tuple[int, int]) -> None:
    """Text on the box's colour, within the image."""
    left, top, right, bottom = pen.textbbox((0, 0), one.text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(0, one.box[0]), max(0, size[0] - wide))
    y = one.box[1] - high if one.box[1] >= high else min(one.box[1], size[1] - high)
    pen.rectangle([x, y, x + wide, y + high], fill=one.colour)
    light = sum(int(one.colour[i : i + 2], 16) for i in (1, 3, 5)) > 420
    pen.text((x + 2 - left, y + 2 - top), one.text, fill="black" if light else "white", font=font)
