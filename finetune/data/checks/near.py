"""Which images are near copies of each other: scaled, encoded anew, cropped or mirrored.

Two steps. Candidates: of every image the few that look most like it, by the cosine of the gradients of `COARSE` x
`COARSE` grey pixels, which is a perceptual hash that is not rounded to bits (of dHash, whose signs of gradients are
compared). Against crops of the others too, for a cropped copy is like a part of its original. Then proof: the two are
laid over each other as well as can be, by a search for the part of the one that the other shows, and what counts is the
correlation of their gradients there. Its threshold is measured: `benchmarks/duplicates.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finetune.data.checks.looks import SIDE, Looks

COARSE, FINE = 12, 32
CANDIDATES = 3
"""Most similar images that are looked at more closely, of each."""
LIKELY = 0.55
"""Cosine of coarse gradients from which on an image is a candidate."""
SURE = 0.93
"""Correlation of fine gradients from which on two images are near copies; measured, see the module."""
FLAT = 0.02
"""Standard deviation of grey values, 0 to 1, below which an image shows too little to compare."""
LARGEST_CROPPED = 12_000
"""Images up to which crops are looked for: beyond it, that would take longer than a coffee."""
_STAGES = ((COARSE, 0.04, 0.85, 0.01), (20, 0.02, 0.8, 0.005), (FINE, 0.01, 0.0, 0.001))
"""Of the search: pixels of a side, step in shares of the side, the correlation below which it is given up, and the gain
below which a step is none."""
_FITS = 0.97
"""From here on another way to lay two pictures over each other is not tried."""
_BLOCK = 512

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; shares of the side."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Pair:
    """Two images that show the same.

    Attributes:
        first: Place of one.
        second: Place of the other; above `first`.
        kind: `bytes`, `pixels` or `near`.
        score: Correlation of their gradients; 1 of equal ones.
        mirrored: Whether one is the other's mirror image.
        cropped: Whether one shows a part of the other.
    """

    first: int
    second: int
    kind: str
    score: float = 1.0
    mirrored: bool = False
    cropped: bool = False


def boxes() -> list[Box]:
    """The whole, and crops of it: three scales at nine places."""
    made = [WHOLE]
    for scale in (0.95, 0.9, 0.8):
        places = [(1 - scale) * share for share in (0.0, 0.5, 1.0)]
        made += [(x, y, x + scale, y + scale) for y in places for x in places]
    return made


def pairs(looks: Looks, more: Iterable[tuple[int, int]] = (), sure: float = SURE) -> list[Pair]:
    """All near copies, the surest first; equal ones are not looked for, and may be among them.

    Args:
        looks: Of the images.
        more: Further candidates, for instance by a model's features.
        sure: Least correlation.
    """
    grey = looks.grey
    fit = np.flatnonzero(looks.contrast >= FLAT)
    if len(fit) < 2:
        return []
    found: dict[tuple[int, int], Pair] = {}
    for first, second, box, mirrored in _candidates(grey, fit):
        _prove(found, grey, first, second, box, mirrored, sure)
    usable = set(fit.tolist())
    for first, second in more:
        if first in usable and second in usable and (min(first, second), max(first, second)) not in found:
            for a, b in ((first, second), (second, first)):
                _prove(found, grey, a, b, (0.1, 0.1, 0.9, 0.9), False, sure)
                _prove(found, grey, a, b, WHOLE, True, sure)
    return sorted(found.values(), key=lambda pair: (-pair.score, pair.first, pair.second))


def _prove(
    found: dict[tuple[int, int], Pair], grey: np.ndarray, part: int, whole: int, box: Box, mirrored: bool, sure: float
) -> None:
    """Lay one over the other, and keep the pair where it holds."""
    key = (min(part, whole), max(part, whole))
    if key in found and found[key].score > _FITS:
        return
    shown = grey[part][:, ::-1] if mirrored else grey[part]
    score, at = aligned(shown, grey[whole], box)
    if score >= sure and (key not in found or score > found[key].score):
        cropped = (at[2] - at[0]) * (at[3] - at[1]) < 0.97
        found[key] = Pair(*key, "near", round(score, 4), mirrored, cropped)


def gradients(picture: np.ndarray) -> np.ndarray:
    """float32 `[..., 2 S (S - 1)]` of `[..., S, S]` grey values: differences of neighbours, of mean 0 and length 1."""
    values = picture.astype(np.float32)
    lead = values.shape[:-2]
    parts = [np.diff(values, axis=axis).reshape(*lead, -1) for axis in (-2, -1)]
    both = np.concatenate(parts, axis=-1)
    both -= both.mean(axis=-1, keepdims=True)
    length: np.ndarray = np.linalg.norm(both, axis=-1, keepdims=True)
    scaled: np.ndarray = both / np.maximum(length, 1e-3)
    return scaled


def part_of(grey: np.ndarray, box: Box, size: int) -> np.ndarray:
    """uint8 `[size, size]`: a part of a picture `[SIDE, SIDE]`."""
    left, top, right, bottom = (SIDE * edge for edge in box)
    return np.asarray(
        Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    )


def _candidates(grey: np.ndarray, fit: np.ndarray) -> Iterator[tuple[int, int, Box, bool]]:
    """Which image may show what part of which other, and whether mirrored; the most alike of each."""
    for _, *found in _alike(grey, fit, fit, len(fit) <= LARGEST_CROPPED):
        yield tuple(found)  # type: ignore[misc]  # the same four


Candidate = tuple[float, int, int, Box, bool]
"""How alike, an image, another, the part of that which it may show, whether mirrored."""


def _alike(grey: np.ndarray, ours: np.ndarray, theirs: np.ndarray, cropped: bool) -> Iterator[Candidate]:
    """Of each of our images the few of theirs that it may show, or show a part of; never itself."""
    tried = [(box, False) for box in (boxes() if cropped else [WHOLE])] + [(WHOLE, True)]
    whole = np.stack([gradients(part_of(grey[i], WHOLE, COARSE)) for i in ours])
    top: list[list[tuple[float, int, Box, bool]]] = [[] for _ in ours]
    for box, mirrored in tried:
        parts = np.stack([gradients(part_of(_turned(grey[i], mirrored), box, COARSE)) for i in theirs])
        for start in range(0, len(ours), _BLOCK):
            alike = whole[start : start + _BLOCK] @ parts.T
            alike[ours[start : start + _BLOCK, None] == theirs] = -1.0
            count = min(CANDIDATES, alike.shape[1])
            nearest = np.argpartition(alike, -count, axis=1)[:, -count:]
            for row, places in enumerate(nearest):
                top[start + row] += [
                    (float(alike[row, place]), int(place), box, mirrored)
                    for place in places
                    if alike[row, place] >= LIKELY
                ]
    for place, likely in enumerate(top):
        seen: set[tuple[int, bool]] = set()
        for score, other, box, mirrored in sorted(likely, key=lambda one: -one[0]):
            if (other, mirrored) not in seen and len(seen) < CANDIDATES:
                seen.add((other, mirrored))
                yield score, int(ours[place]), int(theirs[other]), box, mirrored


def between(
    looks: Looks, ours: np.ndarray, theirs: np.ndarray, most: int, sure: float = SURE
) -> tuple[list[Pair], int]:
    """Near copies of some images among others, in a time that has a bound: the likeliest candidates alone are proven.

    Args:
        looks: Of all images.
        ours: Places of some, int64.
        theirs: Places of the others, int64.
        most: Candidates that are proven.
        sure: Least correlation.

    Returns:
        The pairs, the surest first, and how many candidates were not proven.
    """
    shows = looks.contrast >= FLAT
    ours, theirs = ours[shows[ours]], theirs[shows[theirs]]
    if not len(ours) or not len(theirs):
        return [], 0
    cropped = len(ours) + len(theirs) <= LARGEST_CROPPED
    found: dict[tuple[int, int], Pair] = {}
    both = [*_alike(looks.grey, ours, theirs, cropped), *_alike(looks.grey, theirs, ours, cropped)]
    likely = sorted(both, key=lambda one: (-one[0], one[1:3]))
    for _, first, second, box, mirrored in likely[:most]:
        _prove(found, looks.grey, first, second, box, mirrored, sure)
    pairs = sorted(found.values(), key=lambda pair: (-pair.score, pair.first, pair.second))
    return pairs, max(0, len(likely) - most)


def _turned(picture: np.ndarray, mirrored: bool) -> np.ndarray:
    return picture[:, ::-1] if mirrored else picture


def aligned(part: np.ndarray, whole: np.ndarray, box: Box) -> tuple[float, Box]:
    """The best correlation of gradients of a picture with a part of another, and that part.

    From `box` on by steepest ascent over its edges, from coarse pictures and steps to fine ones: fine gradients tell
    nothing of where to go before the two nearly fit. Given up where two pictures are nowhere near.

    Args:
        part: uint8 `[SIDE, SIDE]`.
        whole: The same.
        box: To begin with.
    """
    best, at = 0.0, box
    for size, step, least, gain in _STAGES:
        target = gradients(part_of(part, WHOLE, size))
        best, moved = float(gradients(part_of(whole, at, size)) @ target), True
        while moved and best < 0.995:
            changes = list(_changes(at, step))
            values = gradients(np.stack([part_of(whole, change, size) for change in changes])) @ target
            number = int(values.argmax())
            moved = float(values[number]) > best + gain
            if moved:
                best, at = float(values[number]), changes[number]
        if best < least:
            return 0.0, at
    return best, at


def _changes(box: Box, step: float) -> Iterator[Box]:
    """Each edge moved by a step, both edges of a side moved together, and all of them out or in."""
    left, top, right, bottom = box
    for x0, y0, x1, y1 in (
        (1, 0, 1, 0), (-1, 0, -1, 0), (0, 1, 0, 1), (0, -1, 0, -1),
        (1, 1, -1, -1), (-1, -1, 1, 1),
        (1, 0, 0, 0), (-1, 0, 0, 0), (0, 1, 0, 0), (0, -1, 0, 0),
        (0, 0, 1, 0), (0, 0, -1, 0), (0, 0, 0, 1), (0, 0, 0, -1),
    ):  # fmt: skip
        new = (left + step * x0, top + step * y0, right + step * x1, bottom + step * y1)
        new = (max(0.0, new[0]), max(0.0, new[1]), min(1.0, new[2]), min(1.0, new[3]))
        if new != box and new[2] - new[0] >= 0.5 and new[3] - new[1] >= 0.5:
            yield new
