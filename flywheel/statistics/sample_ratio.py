"""Did each arm get the share of units it was promised (sample-ratio mismatch)? Valid at any look.

Each distinct unit of a step falls to the challenger with the probability s of that step. Against
that stands a Beta(k·s, k·(1 − s)) mixture, k = 100 (Lindon & Malek 2022, "Anytime-valid inference
for multinomial count data", NeurIPS): a likelihood ratio of counts, started at 1, that reaches
1/alpha with probability at most alpha however often one looks, which a chi-square test does not.
A mismatch means that assignment or recording is broken for one arm: no comparison can be trusted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

_CONCENTRATION = 100.0


def log_e_mismatch(challenger: Any, total: Any, share: float) -> NDArray[np.float64]:
    """Log evidence that the challenger's share of units is not ``share`` (in (0, 1))."""
    a, b = _CONCENTRATION * share, _CONCENTRATION * (1 - share)
    x, n = np.asarray(challenger, float), np.asarray(total, float)
    value: NDArray[np.float64] = (
        betaln(a + x, b + n - x) - betaln(a, b) - x * np.log(share) - (n - x) * np.log1p(-share)
    )
    return value
