"""Temperature scaling (Guo et al. 2017): one number that makes confidence mean accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# The prior on ln T. A handful of calibration samples is often all right or half wrong by chance and
# would say anything between 0.7 and 2, while encoders fine-tuned on few samples are reliably too
# sure: over runs on 54 to 450 samples the best T on 1,000 unseen ones was 1.5 to 1.75 every time.
# With a few hundred samples the prior no longer matters.
PRIOR_TEMPERATURE = 1.5
_PRIOR_SPREAD = 0.3
_LARGEST_LOG = 3.0


def fit_temperature(logits: npt.NDArray[np.float64], targets: Sequence[int]) -> float:
    """The temperature that makes ``targets`` likeliest, held near the prior when there are few.

    ``logits`` (samples, labels) may be log-probabilities; a constant per row changes nothing.
    Minimises the summed negative log-likelihood plus
    (ln T − ln 1.5)² / (2 · 0.3²): the most probable T under a log-normal prior.
    """
    if len(targets) == 0:
        return PRIOR_TEMPERATURE
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        likelihood = mean_nll(logits, targets, math.exp(log_temperature)) * len(targets)
        distance = log_temperature - math.log(PRIOR_TEMPERATURE)
        return likelihood + distance**2 / (2 * _PRIOR_SPREAD**2)

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
