"""Is one release's accuracy within a margin of another's, on the same samples? Exact, at one look.

Of n samples that both answered, ``fixed`` only the newer one has right and ``broken`` only the
older one. The hypothesis to refute is p⁺ − p⁻ ≤ −δ, p⁺ and p⁻ the chances of the two. Outcomes are
ordered by the score statistic of Tango (1998, "Equivalence test and confidence interval for the
difference in proportions for the paired-sample design", Statistics in Medicine 17),

    T = (fixed − broken + nδ) / sqrt(n (ψ̃ − δ²)),   ψ̃ the likeliest p⁺ + p⁻ where p⁺ − p⁻ = −δ,

but its p-value is not taken from the normal distribution, which passes too often; it is the exact
trinomial probability of a T as large, at the discordance ψ = p⁺ + p⁻ for which that is largest
(unconditional exact test; Hsueh, Liu & Chen 2001, Biometrics 57). So it holds at any n and any ψ:
``tests/unit/test_noninferiority.py`` counts its size over all outcomes. Assumed: samples are
independent draws, and the test is made once for each ``alpha``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, gammaln, ndtri, xlog1py, xlogy

Array = NDArray[np.float64]
# Two values of T that differ by less are the same.
_SAME = 1e-9
# Of a bound on the difference.
_TOLERANCE = 2e-5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the test says: ``least`` is the smallest difference in accuracy (newer − older) that it
    does not refute, so ``passed`` says that it lies above −margin."""

    passed: bool
    p: float
    least: float


def no_worse(fixed: int, broken: int, n: int, margin: float, alpha: float) -> Verdict:
    """Whether the newer release is shown to lose less than ``margin``; where it does lose that
    much, it is shown with a chance of at most ``alpha``."""
    if not n:
        return Verdict(passed=False, p=1.0, least=-1.0)
    p, least = exact_p(fixed, broken, n, margin), lower_bound(fixed, broken, n, alpha)
    passed = p <= alpha
    # The bound is rounded, and p is no smooth function of the margin: the test itself decides.
    return Verdict(passed, p, max(least, -margin) if passed else min(least, -margin))


def score(fixed: Any, broken: Any, n: Any, margin: Any) -> Array:
    """Tango's T for p⁺ − p⁻ > −``margin``; rises with ``fixed``, falls with ``broken``."""
    a, b = np.asarray(fixed, float), np.asarray(broken, float)
    linear = (a + b) - margin * (a - b)
    rest = margin * (a - b) + (n - a - b) * margin**2
    psi = (linear + np.sqrt(np.maximum(linear**2 + 4 * n * rest, 0))) / (2 * n)
    variance = n * np.maximum(psi - margin**2, 1e-12)
    value: Array = (a - b + n * margin) / np.sqrt(variance)
    return value


@lru_cache(maxsize=4096)
def exact_p(fixed: int, broken: int, n: int, margin: float) -> float:
    """The largest probability, whatever the discordance, that a release which is worse by
    ``margin`` (in (−1, 1)) shows a T as large on ``n`` samples."""
    return size(float(score(fixed, broken, n, margin)), n, margin)


def size(critical: float, n: int, margin: float) -> float:
    """The largest probability of T ≥ ``critical`` under any p⁺, p⁻ with p⁺ − p⁻ = −``margin``."""
    most = most_broken(critical, n, margin)
    least = abs(margin)
    # Even steps on this scale are equally far apart by Fisher's information, towards both ends.
    angle = np.linspace(0, np.pi / 2, max(120, round(5 * np.sqrt(n))))

    def chance_at(at: Array) -> Array:
        psi = least + (1 - least) * np.sin(at) ** 2
        return chance(most, n, (psi - margin) / 2, (psi + margin) / 2)

    coarse = chance_at(angle)
    step = angle[1]
    best = angle[np.argsort(coarse)[-3:]]
    near = np.clip(best[:, None] + step * np.linspace(-1, 1, 15), 0, np.pi / 2)
    return float(min(1.0, max(coarse.max(), chance_at(near.reshape(-1)).max())))


def chance(most: NDArray[np.int_], n: int, p_fixed: Any, p_broken: Any) -> Array:
    """The probability of at most ``most[fixed]`` broken samples, −1 for an outcome that is none of
    those; one for each pair of ``p_fixed`` and ``p_broken``."""
    plus, minus = np.atleast_1d(p_fixed).astype(float), np.atleast_1d(p_broken).astype(float)
    mean = n * plus
    # What lies further from the mean has no probability that a float could add.
    reach = np.ceil(9 * np.sqrt(mean * (1 - plus)) + 12)
    width = int(min(n, 2 * reach.max())) + 1
    first = np.clip(np.floor(mean).astype(int) - width // 2, 0, n + 1 - width)
    fixed = first[:, None] + np.arange(width)
    p = plus[:, None]
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    choose = log_factorial[n] - log_factorial[fixed] - log_factorial[n - fixed]
    weight = np.exp(choose + xlogy(fixed, p) + xlog1py(n - fixed, -p))
    allowed = most[fixed]
    rate = np.clip(minus[:, None] / np.maximum(1 - p, 1e-300), 0, 1)
    at_most = bdtr(np.clip(allowed, 0, n - fixed).astype(float), n - fixed, rate)
    value: Array = (weight * np.where(allowed < 0, 0.0, at_most)).sum(axis=1)
    return value


def most_broken(critical: float, n: int, margin: float) -> NDArray[np.int_]:
    """The largest number of broken samples with T ≥ ``critical``, or −1, for each number of fixed
    ones, 0 … n."""
    fixed = np.arange(n + 1)
    low, high = np.full(n + 1, -1), n - fixed
    while (low < high).any():
        middle = (low + high + 1) // 2
        fits = score(fixed, middle, n, margin) >= critical - _SAME
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    return low


@lru_cache(maxsize=4096)
def lower_bound(fixed: int, broken: int, n: int, alpha: float) -> float:
    """The smallest difference p⁺ − p⁻ that the exact test does not refute at ``alpha``, rounded
    down by a few thousandths of a point."""
    if not n:
        return -1.0

    def over(loss: float) -> float:
        return float(np.log(max(exact_p(fixed, broken, n, loss), 1e-300) / alpha))

    # By the normal distribution first, which is nearly right and costs nothing.
    start = _normal_loss(fixed, broken, n, alpha)
    step = 0.02 / float(np.sqrt(n))
    low = high = start
    while low > (broken - fixed) / n and over(low) <= 0:
        low, step = max(low - step, (broken - fixed) / n), 2 * step
    step = 0.02 / float(np.sqrt(n))
    while high < 1 and over(high) > 0:
        low, high, step = high, min(high + step, 1.0), 2 * step
    if low < high and over(low) > 0 >= over(high):
        from scipy.optimize import brentq  # most of scipy, which few processes need

        high = min(high, brentq(over, low, high, xtol=_TOLERANCE / 2) + _TOLERANCE / 2)
        while high < 1 and over(high) > 0:
            high = min(1.0, high + _TOLERANCE / 2)
    return -high


def upper_bound(fixed: int, broken: int, n: int, alpha: float) -> float:
    """The largest difference p⁺ − p⁻ that the exact test does not refute at ``alpha``."""
    return -lower_bound(broken, fixed, n, alpha)


def _normal_loss(fixed: int, broken: int, n: int, alpha: float) -> float:
    """The largest loss that T does not refute by its normal quantile."""
    need = -float(ndtri(alpha))
    low, high = (broken - fixed) / n, 1.0
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if score(fixed, broken, n, middle) >= need else (middle, high)
    return high
