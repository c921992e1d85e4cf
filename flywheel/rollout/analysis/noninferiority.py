"""Is the challenger's accuracy proven within a margin of the champion's? Exact, at one look.

n audited pairs, a on which only the challenger was right, b on which only the champion was. The
hypothesis to refute is p⁺ − p⁻ ≤ −δ. Outcomes are ordered by the score statistic of Tango (1998,
"Equivalence test and confidence interval for the difference in proportions for the paired-sample
design", Statistics in Medicine 17),

    T = (a − b + nδ) / sqrt(n (ψ̃ − δ²)),   ψ̃ the most likely p⁺ + p⁻ under p⁺ − p⁻ = −δ,

but its p-value is not taken from the normal distribution, which at a hundred pairs promotes too
often; it is the exact trinomial probability of a T as large, at the discordance ψ for which that
is largest (unconditional exact test; Hsueh, Liu & Chen 2001, Biometrics 57). So it holds at any n.

Several looks share ``promote_alpha`` evenly; by the union bound all looks together promote a
challenger that is worse by the margin with at most that probability.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, gammaln, ndtri, xlog1py, xlogy

Array = NDArray[np.float64]
_GRID = 160


def score(a: Any, b: Any, n: Any, margin: Any) -> Array:
    """Tango's T for p⁺ − p⁻ > −``margin``; rises with ``a``, falls with ``b``."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    linear = (a + b) - margin * (a - b)
    rest = margin * (a - b) + (n - a - b) * margin**2
    psi = (linear + np.sqrt(np.maximum(linear**2 + 4 * n * rest, 0))) / (2 * n)
    variance = n * np.maximum(psi - margin**2, 1e-12)
    value: Array = (a - b + n * margin) / np.sqrt(variance)
    return value


@lru_cache(maxsize=512)
def exact_p(a: int, b: int, n: int, margin: float) -> float:
    """The largest probability, under any trinomial with p⁺ − p⁻ = −``margin``, of a T as large."""
    plus = np.arange(n + 1)
    minus = _most_minus(plus, n, margin, float(score(a, b, n, margin)))
    kept = minus >= 0
    plus, minus = plus[kept], minus[kept]
    # Denser towards the smallest possible discordance, where the probability changes fastest.
    psi = margin + (1 - margin) * np.linspace(0, 1, _GRID)[:, None] ** 2
    p_plus, p_minus = (psi - margin) / 2, (psi + margin) / 2
    choose = gammaln(n + 1) - gammaln(plus + 1) - gammaln(n - plus + 1)
    chance = np.exp(choose + xlogy(plus, p_plus) + xlog1py(n - plus, -p_plus))
    conditional = np.clip(p_minus / np.maximum(1 - p_plus, 1e-300), 0, 1)
    at_most = bdtr(np.minimum(minus, n - plus).astype(float), n - plus, conditional)
    return float(min(1.0, (chance * at_most).sum(axis=1).max()))


def _most_minus(plus: Any, n: int, margin: float, at_least: float) -> Any:
    """For each count of ``plus`` the largest count of minus whose T is still that large, or −1."""
    low, high = np.full(n + 1, -1), n - plus
    while (low < high).any():
        middle = (low + high + 1) // 2
        fits = score(plus, middle, n, margin) >= at_least - 1e-9
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    return low


@lru_cache(maxsize=512)
def lower_bound(a: int, b: int, n: int, alpha: float) -> float:
    """The smallest difference p⁺ − p⁻ that T does not refute at ``alpha`` (normal quantile): to
    be read beside the margin. The decision is ``exact_p``'s."""
    if not n:
        return -1.0
    need = -float(ndtri(alpha))
    low, high = (b - a) / n, 1.0  # of the margin: refuted from some margin on
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if score(a, b, n, middle) >= need else (middle, high)
    return -high
