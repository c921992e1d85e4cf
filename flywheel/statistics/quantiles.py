"""Is the challenger's p95 latency above ``margin`` times the champion's? Valid at any look.

No shape of the distribution is assumed. With q the champion's true p95, the question is whether
more than 5 % of the challenger's answers take longer than margin · q: a rate, tested by the
e-process of ``rates``. As q is not known, that evidence is multiplied for every q by evidence
that q is not the champion's p95 (a quantile's confidence sequence, as in Howard & Ramdas 2022,
"Sequential estimation of quantiles with applications to A/B testing and best-arm identification",
Bernoulli 28), and the least of the products counts: for the true q it is a product of two
e-processes of different answers, and the least is never above it.

- harm: more than 5 % of the challenger's above margin · q, or q above the champion's p95;
- proof: fewer than 5 % of the challenger's above margin · q, or q below the champion's p95.

Arms compare within steps of the rollout: each has a q of its own, and the evidence of the steps is
multiplied, with half of the stake kept back in each.

Latencies come as counts in ``buckets`` 2 % wide, of all answers so far; every rounding is to the
side that makes the claim harder. Assumed: answers are draws of one distribution per arm and step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flywheel.statistics.buckets import WIDTH, upper_edge
from flywheel.statistics.rates import halved, log_e_rate

TAIL = 0.05
# The largest ratio of latencies that is looked for, in buckets: a factor of 1,000.
_WIDEST = 350


class Latencies:
    """Counts of one arm's latencies by bucket."""

    def __init__(self, buckets: Mapping[int, float]) -> None:
        self.keys = np.array(sorted(buckets), int)
        self.counts = np.array([buckets[int(k)] for k in self.keys], float)
        self.n = round(float(self.counts.sum()))
        self._from = np.append(np.cumsum(self.counts[::-1])[::-1], 0.0)

    def quantile(self, q: float) -> float | None:
        """The upper edge, in ms, of the bucket that holds the quantile; None without answers."""
        if not self.n:
            return None
        index = int(np.argmax(np.cumsum(self.counts) >= q * self.counts.sum() - 1e-9))
        return upper_edge(self.keys[index])

    def at_least(self, bucket: Any) -> NDArray[np.float64]:
        """How many answers fell into each of these buckets or a later one."""
        counts: NDArray[np.float64] = self._from[np.searchsorted(self.keys, bucket)]
        return counts

    def slower(self, limit: float) -> int:
        """Answers that surely took longer than ``limit`` ms."""
        return int(self.at_least(math.ceil(1 + math.log(limit) / WIDTH)))


# Of each step, the champion's and the challenger's.
Pairs = Sequence[tuple[Latencies, Latencies]]


def alike(pairs: Pairs) -> tuple[Latencies, Latencies]:
    """Both arms over all steps, the champion's weighted as if its answers had been spread over the
    steps as the challenger's were: for p95s that can be read beside each other."""
    old: Counter[int] = Counter()
    new: Counter[int] = Counter()
    for champion, challenger in pairs:
        weight = challenger.n / champion.n
        for mine, of, scale in ((old, champion, weight), (new, challenger, 1.0)):
            for key, count in zip(of.keys.tolist(), of.counts.tolist(), strict=True):
                mine[key] += count * scale
    return Latencies(old), Latencies(new)


def log_e_slower(pairs: Pairs, margin: float) -> float:
    """Log evidence of harm in some step; reject at log(1 / alpha)."""
    return float(sum(halved(_slower(old, new, margin)) for old, new in pairs))


def log_e_not_slower(pairs: Pairs, margin: float) -> float:
    """Log evidence that the challenger's p95 is below the margin; accept at log(1 / alpha)."""
    return float(sum(halved(_not_slower(old, new, margin)) for old, new in pairs))


def _slower(champion: Latencies, challenger: Latencies, margin: float) -> float:
    if not champion.n or not challenger.n:
        return 0.0
    # The bucket that holds the champion's p95: one of those it has answers in, or a later one.
    bucket = np.arange(champion.keys[0], champion.keys[-1] + 1)
    reaching = np.append(champion.at_least(bucket), 0)
    beyond = np.ceil(bucket + 1 + math.log(margin) / WIDTH)
    slow = np.append(challenger.at_least(beyond), 0)
    not_there = log_e_rate(reaching, champion.n, TAIL, above=False)
    too_slow = log_e_rate(slow, challenger.n, TAIL, above=True)
    return float((halved(not_there) + halved(too_slow)).min())


def _not_slower(champion: Latencies, challenger: Latencies, margin: float) -> float:
    if not champion.n or not challenger.n:
        return 0.0
    bucket = np.arange(champion.keys[0], champion.keys[-1] + 1)
    later = np.append(champion.at_least(bucket + 1), champion.n)
    beyond = np.floor(bucket - 1 + math.log(margin) / WIDTH) + 1
    slow = np.append(challenger.at_least(beyond), challenger.n)
    not_there = log_e_rate(later, champion.n, TAIL, above=True)
    quick = log_e_rate(slow, challenger.n, TAIL, above=False)
    return float((halved(not_there) + halved(quick)).min())


def ratio_interval(pairs: Pairs, alpha: float) -> tuple[float | None, float | None]:
    """Bounds on the ratio of the p95s (challenger ÷ champion) that hold at all looks, each with
    probability 1 − ``alpha``; None where there is no bound yet. They are the margins at which the
    tests of harm and of proof begin to say so."""
    need = math.log(1 / alpha)

    def last(holds: Callable[[float], bool], start: int, stop: int) -> float | None:
        """The last of the margins start … stop, in buckets, up to which it holds."""
        if not holds(upper_edge(start)):
            return None
        kept, lost = start, stop
        while abs(lost - kept) > 1:
            middle = (kept + lost) // 2
            kept, lost = (middle, lost) if holds(upper_edge(middle)) else (kept, middle)
        return upper_edge(kept)

    return (
        last(lambda margin: log_e_slower(pairs, margin) >= need, -_WIDEST, _WIDEST),
        last(lambda margin: log_e_not_slower(pairs, margin) >= need, _WIDEST, -_WIDEST),
    )
