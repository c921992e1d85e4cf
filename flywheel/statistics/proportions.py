"""One proportion: its interval, exact upper bounds on it, and the chance of so many events.

Wilson (1927, "Probable inference, the law of succession, and statistical inference", JASA 22) for
what is shown; Clopper & Pearson (1934, Biometrika 26) for what is guaranteed: their bound is below
the true rate with a chance of at most ``risk``, whatever the rate, at one look. Assumed: outcomes
are independent draws with one rate; ``tests/unit/test_statistics_proportions.py`` checks both
against exact sums and simulated coverage.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, betainc, betaincinv

Array = NDArray[np.float64]


def wilson_interval(right: int, total: int, confidence: float) -> tuple[float, float]:
    """Two-sided interval of a proportion (Wilson); (0, 1) when nothing was measured."""
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


def error_bound(errors: float, count: float, risk: float) -> float:
    """The Clopper–Pearson upper bound: the true rate is above it with chance at most ``risk``."""
    return float(error_bounds(np.array(errors, float), np.array(count, float), risk))


def error_bounds(errors: Array, count: Array, risk: float) -> Array:
    """``error_bound`` of each of many counts.

    ``errors`` and ``count`` may be fractions (effective counts of weighted samples): then the
    beta distribution interpolates between the exact bounds.
    """
    right = np.maximum(count - errors, 1e-12)
    bound: Array = betaincinv(errors + 1.0, right, 1.0 - risk)
    return np.where(errors >= count, 1.0, bound)


def bounded(errors: Array, count: Array, limit: float, risk: float) -> NDArray[np.bool_]:
    """Where ``error_bounds`` is at most ``limit``: the same answer, in a tenth of the time."""
    right = np.maximum(count - errors, 1e-12)
    within: NDArray[np.bool_] = betainc(errors + 1.0, right, limit) >= 1.0 - risk
    return within & (errors < count)


def least_count(error: float, risk: float) -> int:
    """How many samples without one mistake it takes to bound the rate by ``error``."""
    return math.ceil(math.log(risk) / math.log1p(-error) - 1e-9)


def chance_of_as_many(errors: int, count: int, rate: float) -> float:
    """The binomial probability of at least ``errors`` among ``count`` at this rate."""
    return float(bdtrc(errors - 1, count, rate)) if errors else 1.0
