"""Splits of images that have several classes each, by the pixels of each class in them."""

from __future__ import annotations

import numpy as np

from finetune.data import splits
from finetune.data.columns import UNLABELLED

_LOOKED_AT = 64  # rows among which the best is chosen: all of a large class would take long


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
    wanted = np.where(counts > keep, np.maximum(1, np.round(fraction * counts)), 0).astype(np.int64)
    total = min(max(1, round(fraction * len(targets))), len(targets) - keep)
    share = _Share(present, np.minimum(keep, counts))
    for index in np.lexsort((np.arange(len(counts)), counts)):
        rows = rng.permutation(np.flatnonzero(present[:, index]))
        while share.held[index] < wanted[index] and share.add(rows, wanted):
            pass
    for row in rng.permutation(len(targets)):
        if share.drawn.sum() < total:
            share.add(row[None], wanted)
    if not share.drawn.any():  # every row has a class that no other has
        share.drawn[rng.permutation(len(targets))[:total]] = True
    return share.drawn


class _Share:
    """Rows that are drawn so far, and of each class how many of them have it.

    Args:
        present: bool `[N, K]`, which row has which class.
        stays: int64 `[K]`, how many rows of each class must not be drawn.
    """

    def __init__(self, present: np.ndarray, stays: np.ndarray) -> None:
        self.present, self.spare = present, present.sum(axis=0) - stays
        self.drawn = np.zeros(len(present), dtype=bool)
        self.held = np.zeros(present.shape[1], dtype=np.int64)

    def add(self, rows: np.ndarray, wanted: np.ndarray) -> bool:
        """Draw the one of some rows that has most of the classes that are wanted still; False where none may go."""
        rows = rows[~self.drawn[rows]]
        free = rows[~(self.present[rows] & (self.held >= self.spare)).any(axis=1)][:_LOOKED_AT]
        if not len(free):
            return False
        row = free[(self.present[free] & (self.held < wanted)).sum(axis=1).argmax()]
        self.drawn[row] = True
        self.held += self.present[row]
        return True
