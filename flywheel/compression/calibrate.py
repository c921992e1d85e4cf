"""Temperature scaling (Guo et al. 2017): one number that makes confidence mean accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# The prior on ln T: with a handful of samples the temperature stays near 1, and with a hundred the
# samples decide.
_PRIOR_SPREAD = 0.5
_LARGEST_LOG = 3.0


def fit_temperature(logits: npt.NDArray[np.float64], targets: Sequence[int]) -> float:
    """The temperature that makes ``targets`` likeliest, held towards 1 when there are few.

    ``logits`` (samples, labels) may be log-probabilities; a constant per row changes nothing.
    Minimises the summed negative log-likelihood plus (ln T)² / (2 · 0.5²).
    """
    if len(targets) == 0:
        return 1.0
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        likelihood = mean_nll(logits, targets, math.exp(log_temperature)) * len(targets)
        return likelihood + log_temperature**2 / (2 * _PRIOR_SPREAD**2)

    found = minimize_scalar(loss, bounds=(-_LARGEST_LOG, _LARGEST_LOG), method="bounded")
    return float(math.exp(found.x))


def mean_nll(
    logits: npt.NDArray[np.float64], targets: Sequence[int], temperature: float = 1.0
) -> float:
    """Mean −ln of the probability of each target."""
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(scaled).sum(axis=1))
    return float(np.mean(normaliser - scaled[np.arange(len(targets)), list(targets)]))
