"""How many samples it takes to show that a release is no worse: the power of the exact test.

An *equal* release has as many samples fixed as broken. Whether it passes depends on how many it
decides otherwise at all (its discordance): what differs more often is known less exactly. Chances
are counted over all outcomes; only a size is taken from a formula, where many samples differ.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

from scipy.special import ndtri

from flywheel.contracts.percentages import percentage
from flywheel.statistics.noninferiority import chance, most_broken, size

POWER = 0.8
# With so many samples expected to differ the normal distribution is right to a few percent.
_MANY = 30
_MOST = 1_000_000
_SIZES: tuple[int, ...] = tuple(step * 10**k for k in range(5) for step in range(10, 100))


def power(n: int, margin: float, alpha: float, fixed: float, broken: float) -> float:
    """The chance that a release passes on ``n`` samples, of which it fixes and breaks these shares
    in the long run."""
    most = most_broken(_critical(n, margin, alpha), n, margin)
    return float(chance(most, n, fixed, broken)[0])


@lru_cache(maxsize=1024)
def samples_needed(
    discordance: float, margin: float, alpha: float, wanted: float = POWER
) -> int | None:
    """The number of samples from which on an equal release of this ``discordance`` (the share of
    samples on which just one of the two is right) passes with the chance ``wanted``; to two
    digits, and None where a million do not suffice."""
    if margin <= 0:
        return None
    about = _by_normal(discordance, margin, alpha, wanted)
    if about * discordance >= _MANY or about > _SIZES[-1]:
        return _two_digits(about) if about <= _MOST else None
    half = discordance / 2

    def enough(n: int) -> bool:
        return power(n, margin, alpha, half, half) >= wanted

    low = bisect_left(_SIZES, about)
    high = low + 1
    while high < len(_SIZES) - 1 and not enough(_SIZES[high]):
        low, high = high, min(high + 2 * (high - low), len(_SIZES) - 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(_SIZES[middle]) else (middle + 1, high)
    return _SIZES[low]


def holdout_advice(fixed: int, broken: int, n: int, margin: float, alpha: float) -> str:
    """How many held-out samples an equal release needs that differs as much as this one did."""
    discordance = (fixed + broken) / n
    needed = samples_needed(discordance, margin, alpha)
    one = f"one that is equal, and differs on as many samples ({percentage(discordance)}%),"
    if needed is None:
        return f"no holdout shows that {one} loses less than {percentage(margin)}%"
    have = "which this holdout has" if n >= needed else f"this holdout has {n:,}"
    return (
        f"{one} passes in {POWER:.0%} of cases from about {needed:,} held-out samples on ({have})"
    )


def _by_normal(discordance: float, margin: float, alpha: float, wanted: float) -> float:
    quantiles = float(ndtri(1 - alpha) + ndtri(wanted))
    # The last part is for outcomes that come in whole samples.
    return float(quantiles**2 * discordance / margin**2 + 1 / margin)


def _two_digits(n: float) -> int:
    scale = int(10 ** max(0, math.floor(math.log10(n)) - 1))
    return math.ceil(n / scale) * scale


@lru_cache(maxsize=1024)
def _critical(n: int, margin: float, alpha: float) -> float:
    """A score that the test at ``alpha`` passes, the smallest to 0.001."""
    low = high = -float(ndtri(alpha)) - 0.01
    while size(high, n, margin) > alpha:
        low, high = high, high + 0.05
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle, n, margin) > alpha else (low, middle)
    return high
