"""How far a single prediction may be off: split conformal intervals.

Source: Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, "Distribution-Free Predictive Inference for Regression", JASA
113 (2018), algorithm 2, https://arxiv.org/abs/1604.04173.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LEVEL = 0.9


def half_width(errors: np.ndarray, level: float = LEVEL) -> float | None:
    """The distance within which a new image's error lies with a probability of `level` at least.

    The ceil((n + 1) level)-th smallest of n absolute errors, if new images are like these. That the epoch was chosen on
    the same images makes it a little too small; the coverage on the test images shows how much.

    Args:
        errors: Of validation, float `[n]`.
        level: In (0, 1).

    Returns:
        None where there are too few images to say: fewer than 9 for 90 %.
    """
    rank = math.ceil((len(errors) + 1) * level - 1e-9)
    if rank > len(errors) or not np.isfinite(errors).all():
        return None
    return float(np.sort(np.abs(errors))[rank - 1])


def coverage(errors: np.ndarray, width: float) -> float:
    """Share of errors float `[N]` that the interval contains."""
    return float((np.abs(errors) <= width).mean())


def summary(validation: np.ndarray, test: np.ndarray) -> dict[str, Any] | None:
    """The `calibration` entry of result.json; None where there are too few validation images.

    Args:
        validation: Errors float64 `[n]`.
        test: Errors float64 `[N]`.
    """
    found = half_width(validation)
    if found is None:
        return None
    return {
        "level": LEVEL,
        "half_width": found,
        "method": "split conformal",
        "fitted_on": "validation",
        "images": len(validation),
        "test": {"coverage": coverage(test, found)},
    }
