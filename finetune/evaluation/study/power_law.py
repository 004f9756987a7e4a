"""A power law through errors: `error(n) = c + a n^-b` with a, c >= 0; `c` is what no number of images mends.

Source: Hestness et al., "Deep Learning Scaling is Predictable, Empirically", https://arxiv.org/abs/1712.00409; the
constant as in Rosenfeld et al., https://arxiv.org/abs/1909.12673.
"""

from __future__ import annotations

import numpy as np

_EXPONENTS = np.linspace(0.05, 2.0, 79)
FEWEST = 3
"""Sizes that a law of three numbers is fitted to."""


def value(laws: np.ndarray, images: float) -> np.ndarray:
    """Errors float64 `[R]` of laws `[3, R]` with so many training images."""
    found: np.ndarray = laws[0] + laws[1] * images ** -laws[2]
    return found


def fit(counts: np.ndarray, errors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """float64 `[3, R]`, c, a, b of least weighted squares for errors `[K, R]`: of each b a line in n^-b, the best."""
    best = np.full(errors.shape[1], np.inf)
    laws = np.zeros((3, errors.shape[1]))
    w = weight[:, None]
    for exponent in _EXPONENTS:
        x = (counts**-exponent)[:, None]
        mean_x, mean_y = (w * x).sum() / w.sum(), (w * errors).sum(axis=0) / w.sum()
        slope = (w * (x - mean_x) * (errors - mean_y)).sum(axis=0) / (w * (x - mean_x) ** 2).sum()
        constant = mean_y - slope * mean_x
        through = (w * x * errors).sum(axis=0) / (w * x**2).sum()
        slope = np.where(constant < 0, through, slope)
        constant = np.where(constant < 0, 0.0, constant)
        slope, constant = np.where(slope < 0, 0.0, slope), np.where(slope < 0, mean_y, constant)
        squares = (w * (constant + slope * x - errors) ** 2).sum(axis=0)
        better = squares < best - 1e-12
        best = np.where(better, squares, best)
        laws[:, better] = np.stack([constant, slope, np.full_like(slope, exponent)])[:, better]
    return laws


def unexplained(counts: np.ndarray, errors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Standard deviations float64 `[K]` that must be added to those of the errors, so that the law can be true of them.

    That is Birge's ratio: where the sum of squares over the degrees of freedom is above 1, all variances are too small
    by this factor. Roughly so, for four sizes leave one degree of freedom.

    Args:
        counts: float64 `[K]`, training images.
        errors: float64 `[K]`.
        weight: 1 over the known variances, float64 `[K]`.

    Source: Birge, "The Calculation of Errors by the Method of Least Squares", Physical Review 40 (1932).
    """
    law = fit(counts, errors[:, None], weight)
    missed = np.array([errors[place] - value(law, count)[0] for place, count in enumerate(counts)])
    ratio = (weight * missed**2).sum() / max(1, len(counts) - FEWEST)
    found: np.ndarray = np.sqrt(max(0.0, ratio - 1) / weight)
    return found
