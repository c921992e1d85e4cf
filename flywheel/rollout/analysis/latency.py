"""Is the challenger's p95 latency above ``margin`` times the champion's? Valid at any look.

No shape of the distribution is assumed. With q the champion's true p95, the question is whether
more than 5 % of the challenger's answers take longer than margin · q: a rate, tested by the
e-process of ``proportions``. As q is not known, a bound on it is used that holds at every look
(a quantile's confidence sequence, as in Howard & Ramdas 2022, "Sequential estimation of quantiles
with applications to A/B testing and best-arm identification", Bernoulli 28; here by inverting the
e-process for the rate of answers above a value). Half of alpha pays for the bound:

- harm: count the challenger's answers above margin · U, where U ≥ q; show the rate is above 5 %;
- proof: count those above margin · L, where L ≤ q; show that the rate is below 5 %.

Latencies come as counts in buckets 2 % wide (``ports.latency_bucket``), over the whole rollout;
every rounding is to the side that makes the claim harder.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from flywheel.rollout.analysis.proportions import log_e_rate
from flywheel.rollout.ports import ArmSummary, latency_bucket

TAIL = 0.05
_WIDTH = math.log(1.02)


class Latencies:
    """Counts of one arm's latencies by bucket."""

    def __init__(self, buckets: Mapping[int, int]) -> None:
        self.keys = np.array(sorted(buckets), int)
        self.counts = np.array([buckets[int(k)] for k in self.keys], float)
        self.n = int(self.counts.sum())
        # How many answers took longer than the upper edge of each bucket.
        self.above = self.n - np.cumsum(self.counts)

    def quantile(self, q: float) -> float | None:
        """The upper edge, in ms, of the bucket that holds the quantile; None without answers."""
        if not self.n:
            return None
        index = int(np.argmax(np.cumsum(self.counts) >= q * self.n))
        return _edge(self.keys[index])

    def bound(self, alpha: float, *, upper: bool) -> float | None:
        """A value in ms that is at least (at most) the true p95 at all looks, with 1 − alpha."""
        if not self.n:
            return None
        need = math.log(1 / alpha)
        if upper:
            hits = np.flatnonzero(log_e_rate(self.above, self.n, TAIL, above=False) >= need)
            return _edge(self.keys[hits[0]]) if len(hits) else None
        # Between a bucket and the next one that has any answers, as many are above as above it;
        # below the first bucket all of them are.
        above = np.concatenate([[self.n], self.above[:-1]])
        hits = np.flatnonzero(log_e_rate(above, self.n, TAIL, above=True) >= need)
        return _edge(self.keys[hits[-1]] - 1) if len(hits) else None

    def slower(self, limit: float, *, sure: bool) -> int:
        """Answers above ``limit`` ms: those surely above it, or those perhaps above it."""
        edges = np.exp(_WIDTH * (self.keys - (1 if sure else 0)))
        chosen = edges >= limit if sure else edges > limit
        return int(self.counts[chosen].sum())


def _edge(bucket: float) -> float:
    """The upper edge of a bucket in ms."""
    return math.exp(_WIDTH * float(bucket))


def of_arm(arm: ArmSummary) -> Latencies:
    """All latencies of an arm; from the newest ones where storage counted no buckets."""
    if arm.latency_buckets:
        return Latencies(dict(arm.latency_buckets))
    return Latencies(_bucketed(arm.latencies_ms))


def _bucketed(latencies: Iterable[float]) -> Counter[int]:
    return Counter(latency_bucket(value) for value in latencies)


def log_e_slower(champion: Latencies, challenger: Latencies, margin: float, alpha: float) -> float:
    """Log evidence of harm; reject at log(2 / alpha)."""
    bound = champion.bound(alpha / 2, upper=True)
    if bound is None or not challenger.n:
        return 0.0
    slow = challenger.slower(margin * bound, sure=True)
    return float(log_e_rate(slow, challenger.n, TAIL, above=True))


def log_e_not_slower(
    champion: Latencies, challenger: Latencies, margin: float, alpha: float
) -> float:
    """Log evidence that the challenger's p95 is below the margin; accept at log(2 / alpha)."""
    bound = champion.bound(alpha / 2, upper=False)
    if bound is None or not challenger.n:
        return 0.0
    slow = challenger.slower(margin * bound, sure=False)
    return float(log_e_rate(slow, challenger.n, TAIL, above=False))


def ratio_interval(
    champion: Latencies, challenger: Latencies, alpha: float
) -> tuple[float | None, float | None]:
    """Bounds on the ratio of the p95s (challenger ÷ champion) that hold at all looks, each with
    probability 1 − ``alpha``; None where there is no bound yet."""
    half = alpha / 2
    new_low, new_high = (challenger.bound(half, upper=upper) for upper in (False, True))
    old_low, old_high = (champion.bound(half, upper=upper) for upper in (False, True))
    low = new_low / old_high if new_low and old_high else None
    return low, new_high / old_low if new_high and old_low else None
