"""Splits of images with several classes each: every class in its share, the rarest first."""

from __future__ import annotations

import numpy as np


def rarest(targets: np.ndarray) -> np.ndarray:
    """The class of each image that the fewest images have.

    Args:
        targets: int64 `[N, K]`, objects of each class.

    Returns:
        int64 `[N]`; K of images without an object.
    """
    present = targets > 0
    images = present.sum(axis=0)
    scarce = np.where(present, images, np.iinfo(np.int64).max)
    found: np.ndarray = np.where(present.any(axis=1), scarce.argmin(axis=1), targets.shape[1]).astype(np.int64)
    return found


def carve(targets: np.ndarray, fraction: float, rng: np.random.Generator, keep: int) -> np.ndarray:
    """Draw a share of the images so that it has its share of each class: the rarest class first.

    Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data, 2011, for two parts: of the class that
    lacks images and has the fewest left, one image at a time goes where it is wanted most. Images without an object are
    a class of their own.

    Args:
        targets: int64 `[N, K]`, objects of each class.
        fraction: Share to draw.
        rng: Draws.
        keep: Images of each class that must stay, where it has as many; then one is drawn if it has one more.

    Returns:
        bool `[N]`, True where drawn.
    """
    present = np.concatenate([targets > 0, (targets <= 0).all(axis=1, keepdims=True)], axis=1)
    counts = present.sum(axis=0)
    wanted = np.clip(fraction * counts, np.minimum(1, np.maximum(counts - keep, 0)), np.maximum(counts - keep, 0))
    total = max(1, round(fraction * len(targets)))
    drawn = np.zeros(len(targets), dtype=bool)
    stays = counts.copy()  # images of each class that are not drawn
    taken = 0
    order = rng.permutation(len(targets))
    for label in np.lexsort((np.arange(len(counts)), counts)):
        for index in order[present[order, label]]:
            if wanted[label] < 0.5 or (taken >= total and counts[label] * fraction >= 1):
                break
            kinds = present[index]
            if drawn[index] or (stays[kinds] <= np.minimum(keep, counts[kinds])).any():
                continue  # a class that the image brings along would be left with too few
            drawn[index] = True
            taken += 1
            wanted[kinds] -= 1
            stays[kinds] -= 1
    if not taken:  # every image has a class that it is needed for
        drawn[order[: min(total, len(order) - keep)]] = True
    return drawn
