"""Splits of images that have several classes each, by the pixels of each class in them."""

from __future__ import annotations

import numpy as np

from finetune.data import splits
from finetune.data.columns import UNLABELLED


def rarest(targets: np.ndarray) -> np.ndarray:
    """Of each row the class in it that the fewest rows have.

    Args:
        targets: int64 `[N, K]`, pixels of each class.

    Returns:
        int64 `[N]`; `UNLABELLED` of a row without any.
    """
    present = targets > 0
    rows = present.sum(axis=0)
    found = np.where(present, rows, len(targets) + 1).argmin(axis=1)
    return np.where(present.any(axis=1), found, UNLABELLED).astype(np.int64)


def draw(targets: np.ndarray, size: int | None, rng: np.random.Generator) -> np.ndarray:
    """Rows of at most `size` labelled images, the rarest class in each in its share; int64, ascending."""
    return splits.subset(rarest(targets), size, rng)


def carve(targets: np.ndarray, fraction: float, rng: np.random.Generator, keep: int = 1) -> np.ndarray:
    """Draw a share of a split that has its share of every class, as far as whole images allow.

    Greedy, after the iterative stratification of Sechidis, Tsoumakas and Vlahavas, "On the Stratification of
    Multi-label Data" (ECML PKDD 2011): the class with the fewest images chooses first, and every class that has more
    than `keep` images gets one, so that with three images a rare class is in each of three splits.

    Args:
        targets: int64 `[N, K]`, pixels of each class.
        fraction: Share of the rows to draw; more where rare classes want it.
        rng: Draws.
        keep: Rows of each class that must stay, where it has more.

    Returns:
        bool `[N]`, True where drawn.
    """
    present = targets > 0
    counts = present.sum(axis=0)
    drawn = np.zeros(len(targets), dtype=bool)
    stays = np.minimum(keep, counts)
    total = min(max(1, round(fraction * len(targets))), len(targets) - keep)
    for index in np.lexsort((np.arange(len(counts)), counts)):
        if counts[index] > keep:
            wanted = max(1, round(fraction * counts[index])) - int(present[drawn, index].sum())
            _take(present, drawn, rng.permutation(np.flatnonzero(present[:, index] & ~drawn)), wanted, stays)
    _take(present, drawn, rng.permutation(np.flatnonzero(~drawn)), total - int(drawn.sum()), stays)
    if not drawn.any():  # every class is in one row alone
        drawn[rng.permutation(len(targets))[:total]] = True
    return drawn


def _take(present: np.ndarray, drawn: np.ndarray, rows: np.ndarray, wanted: int, stays: np.ndarray) -> None:
    """Draw `wanted` of the rows, of those without which enough of every class stay."""
    left = present[~drawn].sum(axis=0)
    for row in rows:
        if wanted <= 0:
            return
        after = left - present[row]
        if (after >= stays).all():
            drawn[row], left, wanted = True, after, wanted - 1
