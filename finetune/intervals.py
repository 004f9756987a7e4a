"""How sure a share is."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share.

    Unlike the normal approximation it stays inside [0, 1] and holds for few images and shares near 0 and 1.

    Args:
        share: Observed, in [0, 1].
        count: Of images, at least 1.
        confidence: In (0, 1).

    Returns:
        Lower and upper end.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
