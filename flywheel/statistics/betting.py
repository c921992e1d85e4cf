"""Is the paired difference of two arms above a boundary? Betting, valid at any look.

Each audited sample that both arms scored gives d = challenger correct − champion correct, one of
−1, 0, 1. To show that E[d] > m, bet on it. With c in (0, 1) and weight w in (0, 1] the capital

    K_t(c, m) = Π_{i ≤ t} (1 + c · w_i · (d_i − m) / (1 + m))

is a non-negative supermartingale, started at 1, whenever E[d] ≤ m: no factor is below 1 − c, and
no factor's mean is above 1. So is the average of K_t over a fixed grid of c ("diversified Kelly";
Waudby-Smith & Ramdas 2023, "Estimating means of bounded random variables by betting", JRSS B 86,
section 5 and its appendix on dKelly). By Ville's inequality the chance that it *ever* reaches
1/alpha is at most alpha: one may look after every pair, and stop because of what one saw. Turning
signs around tests E[d] < m. The last boundary that is refuted at alpha, from either side, is a
bound on E[d] that holds at all looks.

Unequal inclusion probabilities p_i (an audit rate that was changed, strata): w_i = min(p) / p_i.
Under sampling with p, E[w (d − m)] is E[d − m] over all traffic times a positive constant, so the
sign, which is all the bet depends on, is that of the traffic at large. It assumes that the set of
probabilities belongs to the audit's design and was not chosen by looking at answers.

Assumed: pairs are exchangeable draws of the traffic; how long a label takes does not depend on
which arm was right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Bets as fractions of the largest safe one. Small ones find small differences in many pairs,
# large ones find large differences in a few; averaging over them costs at most log(len(BETS)).
BETS: Array = np.array([0.03, 0.08, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
# Every look up to here, then looks that each have so many more pairs than the one before.
_EVERY_LOOK = 2000
# Beyond what rounding does to a sum of logarithms.
_SAME = 1e-6
# Of the bounds of an interval.
_TOLERANCE = 1e-7
_GROWTH = 1.001


def relative_weights(inclusion: Array) -> Array:
    """w of pairs with these inclusion probabilities, in (0, 1]: 1 for those least likely drawn."""
    p = np.maximum(inclusion, 1e-9)
    return p.min() / p if len(p) else p


def checkpoints(n: int) -> NDArray[np.int_]:
    """The looks that are evaluated among the first ``n`` pairs, rising.

    A subset of the looks keeps every guarantee, and bounds the work for very long ones. It is the
    same subset whatever ``n`` is, so that what was once proven stays proven as pairs come.
    """
    every = np.arange(1, min(n, _EVERY_LOOK) + 1)
    if n <= _EVERY_LOOK:
        return every
    later = math.floor(math.log(n / _EVERY_LOOK) / math.log(_GROWTH))
    spaced = _EVERY_LOOK * _GROWTH ** np.arange(1, later + 1)
    return np.concatenate([every, np.unique(spaced.astype(int))])


def log_capital(counts: Array, values: Array, weights: Array, boundary: float) -> Array:
    """Log of the capital of betting on E[d] > ``boundary``, one entry for each row of ``counts``.

    Row t of ``counts`` says how often each pair of ``values`` and ``weights`` occurred up to t:
    the capital depends on the order only through these.
    """
    return _log_mean(_of_bets(counts, values, weights, boundary))


def highest_log_capital(counts: Array, values: Array, weights: Array, boundary: float) -> float:
    """The largest of ``log_capital``; −∞ without a row. A mean of capitals is at most the largest
    of them and at least its share of that one: only rows which may so be the highest are worked
    out."""
    if not len(counts):
        return -math.inf
    logs = _of_bets(counts, values, weights, boundary)
    top = logs.max(axis=-1)
    return float(_log_mean(logs[top >= top.max() - math.log(len(BETS)) - _SAME]).max())


def _of_bets(counts: Array, values: Array, weights: Array, boundary: float) -> Array:
    step = weights * (values - boundary) / (1 + boundary)
    logs: Array = counts @ np.log1p(np.outer(step, BETS))
    return logs


def _log_mean(logs: Array) -> Array:
    top = logs.max(axis=-1, keepdims=True)
    mean: Array = top[..., 0] + np.log(np.exp(logs - top).mean(axis=-1))
    return mean


class PairedEvidence:
    """A sequence of weighted paired differences, and what may be said about its mean.

    ``scheduled`` looks are evaluated beside the ``checkpoints``."""

    def __init__(self, d: Array, w: Array | None = None, scheduled: Sequence[int] = ()) -> None:
        w = np.ones_like(d) if w is None else w
        self.n, self.d, self._w = len(d), d, w
        self.equally_likely = self.n == 0 or bool(np.ptp(w) == 0)
        self.mean = float(np.average(d, weights=w)) if self.n else 0.0
        share = w / w.sum() if self.n else w
        # Of the weighted mean (Hájek); a cheap measure for step criteria, no part of a proof.
        self.standard_error = float(np.sqrt(np.sum((share * (d - self.mean)) ** 2)))
        weights, of_weight = np.unique(w, return_inverse=True)
        kind = of_weight.reshape(-1) * 3 + d.astype(int) + 1
        kinds = np.unique(kind)
        self._values, self._weights = kinds % 3 - 1.0, weights[kinds // 3]
        looks = np.union1d(checkpoints(self.n), np.array(scheduled, int))
        self._counts = np.zeros((len(looks), len(kinds)))
        for column, one in enumerate(kinds):
            self._counts[:, column] = np.cumsum(kind == one)[looks - 1]

    def _above(self, boundary: float) -> float:
        return highest_log_capital(self._counts, self._values, self._weights, boundary)

    def _below(self, boundary: float) -> float:
        return highest_log_capital(self._counts, -self._values, self._weights, -boundary)

    def harm(self, boundary: float) -> float:
        """Highest log capital ever reached by betting on E[d] < ``boundary``."""
        return max(0.0, self._below(boundary))

    def proof(self, boundary: float) -> float:
        """Highest log capital ever reached by betting on E[d] > ``boundary``."""
        return max(0.0, self._above(boundary))

    def first(self, size: int) -> PairedEvidence:
        """The first ``size`` pairs alone (1 … n), as if no more had come: weights too are relative
        to the smallest inclusion probability among these."""
        w = self._w[:size]
        return PairedEvidence(self.d[:size], w / w.max(), (size,))

    def interval(self, alpha: float) -> tuple[float, float]:
        """Bounds on E[d] at the present look, each of which holds at all looks together with
        probability 1 − ``alpha``: the boundaries at which a bet has won 1/``alpha``, so that one of
        them lies beyond a margin exactly where the test of that margin says so."""
        if not self.n:
            return -1.0, 1.0
        need = math.log(1 / alpha)
        step = 3 * self.standard_error
        low = _largest(lambda m: self._above(m) - need, self.mean, step)
        high = -_largest(lambda m: self._below(-m) - need, -self.mean, step)
        return min(low, high), max(low, high)


def _largest(won: Callable[[float], float], start: float, step: float) -> float:
    """The largest boundary in [−1, start] that is refuted: ``won``, which falls with it, is not
    below 0. Where none is, −1. It lies some ``step`` below the start, as a rule."""
    from scipy.optimize import brentq  # most of scipy, which few processes need

    low = high = max(min(start, 1.0), -1.0 + 2 * _TOLERANCE)
    step = max(step, _TOLERANCE)
    while won(low) < 0:
        if low <= -1.0 + _TOLERANCE:
            return -1.0
        low, high, step = max(low - step, -1.0 + _TOLERANCE), low, 2 * step
    if low == high:
        return high
    found = float(brentq(won, low, high, xtol=_TOLERANCE))
    while won(found) < 0:
        found -= _TOLERANCE
    return found
