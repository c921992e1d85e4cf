"""Exact upper confidence bounds on an error rate."""

from __future__ import annotations

import math

from scipy.special import betaincinv


def error_bound(errors: float, count: float, risk: float) -> float:
    """The Clopper–Pearson upper bound: the true rate is above it with chance at most ``risk``.

    ``errors`` and ``count`` may be fractions (effective counts of weighted samples): then the
    beta distribution interpolates between the exact bounds.
    """
    if count <= 0 or errors >= count:
        return 1.0
    return float(betaincinv(errors + 1.0, count - errors, 1.0 - risk))


def least_count(error: float, risk: float) -> int:
    """How many samples without one mistake it takes to bound the rate by ``error``."""
    return math.ceil(math.log(risk) / math.log1p(-error) - 1e-9)
