"""Scores that are means of a value of each image, where images count more or less often."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def of_means(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function of how often each image counts, int64 `[R, N]`, to the mean in each case, float64 `[R]`.

    Args:
        values: float64 `[N]`.
    """

    def mean(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = weights @ values / weights.sum(axis=1)
        return found

    return mean
