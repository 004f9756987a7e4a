"""A colour for each class, in figures, in the masks that `predict` writes, and on the page."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image

_FIRST = ("#4D4D4D", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""A dark grey, often the background, and those of Okabe and Ito (https://jfly.uni-koeln.de/color/)."""
_VOID = (255, 255, 255)
_GOLDEN = 0.61803398875


def colours(classes: int) -> np.ndarray:
    """uint8 `[K, 3]`: RGB; the first eight for any colour vision, the others by turning the hue, which repeats never.

    Args:
        classes: K.
    """
    found = [_rgb(text) for text in _FIRST[:classes]]
    for number in range(len(found), classes):
        value, saturation = (0.95, 0.7, 0.5)[number % 3], (0.9, 0.55)[number // 3 % 2]
        found.append(tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number * _GOLDEN % 1, saturation, value)))
    return np.array(found, dtype=np.uint8).reshape(-1, 3)


def _rgb(text: str) -> tuple[int, ...]:
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def painted(mask: np.ndarray, classes: int) -> np.ndarray:
    """uint8 `[H, W, 3]` of class indices `[H, W]`; void is white."""
    painted_: np.ndarray = _table(classes)[mask]
    return painted_


def _table(classes: int) -> np.ndarray:
    table = np.full((256, 3), _VOID, dtype=np.uint8)
    table[:classes] = colours(classes)
    return table


def indexed(mask: np.ndarray, classes: int) -> Image.Image:
    """A picture of mode P: its pixels are class indices, and viewers show colours."""
    picture = Image.fromarray(mask)
    picture.putpalette(_table(classes).tobytes())
    return picture


def overlaid(picture: np.ndarray, mask: np.ndarray, classes: int, opacity: float = 0.5) -> np.ndarray:
    """uint8 `[H, W, 3]`: an image with the classes' colours over it.

    Args:
        picture: uint8 `[H, W, 3]`.
        mask: uint8 `[H, W]`.
        classes: K.
        opacity: Of the colours, 0 to 1.
    """
    mixed = (1 - opacity) * picture + opacity * painted(mask, classes)
    return mixed.round().clip(0, 255).astype(np.uint8)


def shares(mask: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Share of the pixels that each class has, the largest first; those without a pixel are left out."""
    counts = np.bincount(mask.reshape(-1), minlength=len(names))[: len(names)]
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda i: (-counts[i], i))
    return {names[i]: round(float(counts[i] / mask.size), 6) for i in order}
