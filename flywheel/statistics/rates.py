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

from collections.abc import Callable
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
    best = _best_likelihood(x0, n0, x1, n1, delta, above=above)
    value: Array = log_mixture(x0, n0) + log_mixture(x1, n1) - best
    return value


def log_e_by_step(x0: Any, n0: Any, x1: Any, n1: Any, difference: Any, *, above: bool) -> Array:
    """Log evidence that p1 − p0 is above (or below) ``difference`` in some step.

    The last axis of the counts are the steps, each with rates of its own, so that the null
    hypothesis is that p1 − p0 is at most (at least) ``difference`` in each of them. The numerator
    is the mean of two mixtures: one with the same rates in every step, which spends little where
    that is so, and one with rates of their own. Over the product of what each step's likelihood
    can reach under the null hypothesis that is an e-process as ``log_e_difference`` is, which it
    equals where there is one step. A step that only one arm was asked in says nothing.
    """
    each, same = _numerators(x0, n0, x1, n1, difference, above=above)
    value: Array = np.logaddexp(each.sum(axis=-1), same) - np.log(2)
    return value


def log_e_in_steps(x0: Any, n0: Any, x1: Any, n1: Any, difference: Any, *, above: bool) -> Array:
    """Log evidence as ``log_e_by_step``'s, but quicker where one step differs from the others: half
    of the stake is on all of them together, the other half on every subset of them alike."""
    each, same = _numerators(x0, n0, x1, n1, difference, above=above)
    together = np.logaddexp(each.sum(axis=-1), same) - np.log(2)
    value: Array = np.logaddexp(together, halved(each).sum(axis=-1)) - np.log(2)
    return value


def _numerators(
    x0: Any, n0: Any, x1: Any, n1: Any, difference: Any, *, above: bool
) -> tuple[Array, Array]:
    """The log evidence of each step by rates of its own, and of all by the same rates."""
    x0, n0, x1, n1, delta = np.broadcast_arrays(
        *(np.asarray(v, float) for v in (x0, n0, x1, n1, difference))
    )
    both = (n0 > 0) & (n1 > 0)
    x0, n0, x1, n1 = (np.where(both, v, 0.0) for v in (x0, n0, x1, n1))
    best = np.where(both, _best_likelihood(x0, n0, x1, n1, delta, above=above), 0.0)
    own = log_mixture(x0, n0) + log_mixture(x1, n1)
    same = log_mixture(x0.sum(axis=-1), n0.sum(axis=-1)) + log_mixture(
        x1.sum(axis=-1), n1.sum(axis=-1)
    )
    return own - best, same - best.sum(axis=-1)


def halved(log_e: Any) -> Array:
    """Half of the stake kept: the log of (1 + e) / 2, an e-process where e is one."""
    value: Array = np.logaddexp(0.0, log_e) - np.log(2)
    return value


def _best_likelihood(
    x0: Array, n0: Array, x1: Array, n1: Array, delta: Array, *, above: bool
) -> Array:
    """The largest log-likelihood with p1 − p0 at most (``above``), or at least, ``delta``."""
    free0, free1 = x0 / np.maximum(n0, 1), x1 / np.maximum(n1, 1)
    inside = (free1 - free0 <= delta) if above else (free1 - free0 >= delta)
    edge = _edge(x0, n0, x1, n1, delta)
    p0 = np.where(inside, free0, edge)
    p1 = np.where(inside, free1, np.clip(edge + delta, 0, 1))
    value: Array = log_likelihood(x0, n0, p0) + log_likelihood(x1, n1, p1)
    return value


def _edge(x0: Array, n0: Array, x1: Array, n1: Array, delta: Array) -> Array:
    """The p0 of the most likely point with p1 = p0 + delta (the log-likelihood is concave)."""
    low = np.maximum(0.0, -delta)
    high = np.minimum(1.0, 1.0 - delta)
    tiny = 1e-12
    for _ in range(34):
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


def weighted_difference(x0: Any, n0: Any, x1: Any, n1: Any) -> float | None:
    """p1 − p0 within steps (the last axis), each weighing what it tells (Mantel & Haenszel); None
    where no step has both arms."""
    x0, n0, x1, n1 = (np.asarray(v, float) for v in (x0, n0, x1, n1))
    weight = n0 * n1 / np.maximum(n0 + n1, 1)
    if not weight.sum():
        return None
    rise = x1 / np.maximum(n1, 1) - x0 / np.maximum(n0, 1)
    return float((weight * rise).sum() / weight.sum())


def bounds(
    above: Callable[[Array], Array], below: Callable[[Array], Array], middle: float, need: float
) -> tuple[float, float]:
    """The smallest and the largest difference in [−1, 1] that evidence does not refute.

    ``above`` is the log evidence that the difference is above each of many numbers, ``below`` that
    it is below; ``middle``, the estimate, is never refuted, and each end holds at all looks."""

    def end(evidence: Callable[[Array], Array], outer: float) -> float:
        kept, refuted = middle, outer
        for _ in range(4):
            trials = np.linspace(refuted, kept, 24)
            lost = evidence(trials[1:-1]) >= need
            # As far as all are refuted, beginning at the outer end.
            count = int(np.argmin(lost)) if not lost.all() else len(lost)
            refuted, kept = float(trials[count]), float(trials[count + 1])
        return kept

    return end(above, -1.0), end(below, 1.0)
