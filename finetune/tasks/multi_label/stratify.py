"""Splits in which every class has its share, where an image may be of several: iterative stratification.

Source: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011, algorithm 1, for
two subsets; the rarest class is dealt out first, each image to the subset that lacks the class most. Beyond it: a class
with enough images has one in the drawn subset and some in the rest, for a score without a positive is none.
"""

from __future__ import annotations

import numpy as np


def draw(targets: np.ndarray, fraction: float, rng: np.random.Generator, keep: int = 1) -> np.ndarray:
    """Draw a stratified share of images.

    Args:
        targets: int8 `[N, K]`, positive where an image shows a class.
        fraction: Share to draw; the total is about `round(fraction * N)`.
        rng: Draws; the same rows come out on every machine.
        keep: Images of each class that must stay.

    Returns:
        bool `[N]`, True where drawn. Every class of at least `keep + 1` images has one that is drawn.
    """
    shown = targets > 0
    counts = shown.sum(axis=0)
    wanted = np.stack([fraction * counts, (1 - fraction) * counts])
    if keep:  # at least one there, and enough here; what is too rare for both stays
        wanted[0] = np.where(counts > keep, np.clip(wanted[0], 1, np.maximum(counts - keep, 1)), 0)
        wanted[1] = counts - wanted[0]
    size = min(max(round(fraction * len(shown)), 1), len(shown) - 1) if len(shown) > 1 else 0
    side = _deal(shown, wanted, np.array([size, len(shown) - size], dtype=np.float64), rng)
    drawn: np.ndarray = side == 0
    if keep:
        _repair(shown, drawn, keep)
    else:
        _fill(drawn, size, rng)
    return drawn


def _deal(shown: np.ndarray, wanted: np.ndarray, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64 `[N]`, 0 or 1: the subset of each image.

    Args:
        shown: bool `[N, K]`.
        wanted: float64 `[2, K]`, images of each class that each subset still lacks; is used up.
        room: float64 `[2]`, images that each subset still lacks; is used up.
        rng: Orders the images, so that ties do not depend on how they are sorted.
    """
    side = np.full(len(shown), -1, dtype=np.int64)
    order = rng.permutation(len(shown))
    rest = shown.sum(axis=0)
    while rest.any():
        label = int(np.where(rest > 0, rest, rest.max() + 1).argmin())
        for row in order[(side[order] < 0) & shown[order, label]]:
            lack, free = wanted[:, label], room
            chosen = int(lack[1] > lack[0]) if lack[0] != lack[1] else int(free[1] >= free[0])
            side[row] = chosen
            wanted[chosen, shown[row]] -= 1
            room[chosen] -= 1
            rest -= shown[row]
    for row in order[side[order] < 0]:  # of no class: where there is room
        side[row] = int(room[1] >= room[0])
        room[side[row]] -= 1
    return side


def _repair(shown: np.ndarray, drawn: np.ndarray, keep: int) -> None:
    """Move single images, so that no class of at least `keep + 1` images is missing on either side."""
    counts = shown.sum(axis=0)
    for label in np.argsort(counts, kind="stable"):
        if counts[label] <= keep:
            continue
        for least, here in ((1, drawn), (keep, ~drawn)):
            lack = least - int((shown[:, label] & here).sum())
            there = np.flatnonzero(shown[:, label] & ~here)
            # First those whose classes have most to spare where they are.
            spare = [int((shown[~here][:, shown[row]].sum(axis=0)).min()) for row in there]
            for row in there[np.argsort(spare, kind="stable")[::-1]][: max(lack, 0)]:
                drawn[row] = not drawn[row]
                here = drawn if least == 1 else ~drawn


def _fill(drawn: np.ndarray, size: int, rng: np.random.Generator) -> None:
    """Exactly `size` drawn rows."""
    for value, count in ((True, int(drawn.sum()) - size), (False, size - int(drawn.sum()))):
        if count > 0:
            drawn[rng.permutation(np.flatnonzero(drawn == value))[:count]] = not value
