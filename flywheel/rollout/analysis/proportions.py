"""Rates of yes/no outcomes: one arm against a number, two arms against each other, at any look.

The evidence is an e-process by the mixture form of universal inference (Wasserman, Ramdas &
Balakrishnan 2020, "Universal inference", PNAS 117): a fixed mixture's likelihood over the largest
likelihood that the null hypothesis can reach,

    E_t = ∫ L_t(θ) dπ(θ) / sup_{θ in H0} L_t(θ).

For each θ in H0 the numerator over L_t(θ) is a martingale started at 1, and E_t is never above
it; so by Ville's inequality E_t ever reaches 1/alpha with probability at most alpha. It depends
on counts alone, so it does not matter how the two arms interleave or how often one looks.

π is a product of one mixture of Beta(½, b) per arm. Any π is valid; this one is quick where the
rates are small, as error rates are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, xlog1py, xlogy

Array = NDArray[np.float64]
_PRIOR_B = (0.5, 30.0, 1000.0)


def log_mixture(x: Any, n: Any) -> Array:
    """Log of the mixture's likelihood of ``x`` events in ``n`` trials."""
    parts = [betaln(0.5 + x, b + n - x) - betaln(0.5, b) for b in _PRIOR_B]
    mean: Array = np.logaddexp.reduce(np.stack(parts), axis=0) - np.log(len(_PRIOR_B))
    return mean


def log_likelihood(x: Any, n: Any, p: Any) -> Array:
    """Log-likelihood of a rate ``p``."""
    value: Array = xlogy(x, p) + xlog1py(n - x, -np.asarray(p, float))
    return value


def log_e_rate(x: Any, n: Any, rate: float, *, above: bool) -> Array:
    """Log evidence that an event's probability is above (or below) ``rate``."""
    observed = np.asarray(x, float) / np.maximum(n, 1)
    best = np.minimum(observed, rate) if above else np.maximum(observed, rate)
    value: Array = log_mixture(x, n) - log_likelihood(x, n, best)
    return value


def log_e_difference(x0: Any, n0: Any, x1: Any, n1: Any, difference: Any, *, above: bool) -> Array:
    """Log evidence that p1 − p0 is above (or below) ``difference`` (in (−1, 1)).

    ``x`` events in ``n`` trials of arms 0 and 1; arrays broadcast.
    """
    x0, n0, x1, n1, delta = np.broadcast_arrays(
        *(np.asarray(v, float) for v in (x0, n0, x1, n1, difference))
    )
    free0, free1 = x0 / np.maximum(n0, 1), x1 / np.maximum(n1, 1)
    inside = (free1 - free0 <= delta) if above else (free1 - free0 >= delta)
    edge = _edge(x0, n0, x1, n1, delta)
    p0 = np.where(inside, free0, edge)
    p1 = np.where(inside, free1, np.clip(edge + delta, 0, 1))
    best = log_likelihood(x0, n0, p0) + log_likelihood(x1, n1, p1)
    value: Array = log_mixture(x0, n0) + log_mixture(x1, n1) - best
    return value


def _edge(x0: Array, n0: Array, x1: Array, n1: Array, delta: Array) -> Array:
    """The p0 of the most likely point with p1 = p0 + delta (the log-likelihood is concave)."""
    low = np.maximum(0.0, -delta)
    high = np.minimum(1.0, 1.0 - delta)
    tiny = 1e-12
    for _ in range(50):
        p0 = (low + high) / 2
        p1 = p0 + delta
        slope = (
            x0 / np.maximum(p0, tiny)
            - (n0 - x0) / np.maximum(1 - p0, tiny)
            + x1 / np.maximum(p1, tiny)
            - (n1 - x1) / np.maximum(1 - p1, tiny)
        )
        low, high = np.where(slope > 0, p0, low), np.where(slope > 0, high, p0)
    value: Array = (low + high) / 2
    return value


def difference_interval(x0: int, n0: int, x1: int, n1: int, alpha: float) -> tuple[float, float]:
    """Confidence sequence for p1 − p0: holds at all looks with probability 1 − ``alpha``."""
    if not n0 or not n1:
        return -1.0, 1.0
    need = np.log(2 / alpha)
    middle = x1 / n1 - x0 / n0

    def bound(outer: float, *, above: bool) -> float:
        kept, refuted = middle, outer
        for _ in range(24):
            trial = (kept + refuted) / 2
            if log_e_difference(x0, n0, x1, n1, trial, above=above) >= need:
                refuted = trial
            else:
                kept = trial
        return float(kept)

    return bound(-1.0, above=True), bound(1.0, above=False)
