"""The interval of a proportion, as every stage that shows one computes it."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(right: int, total: int, confidence: float) -> tuple[float, float]:
    """Two-sided interval of a proportion (Wilson 1927); (0, 1) when nothing was measured."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, square = right / total, z * z
    centre = share + square / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    scale = 1 + square / total
    low, high = (centre - spread) / scale, (centre + spread) / scale
    # Rounding must not push the interval past the estimate at its ends.
    return min(share, max(0.0, low)), max(share, min(1.0, high))
