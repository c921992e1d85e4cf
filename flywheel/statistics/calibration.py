"""Temperature scaling: one number that makes confidence mean accuracy.

Guo et al. (2017, "On calibration of modern neural networks", ICML): the temperature T divides
logits, so that order stays and only sureness changes; the T that makes the known answers likeliest
is found over ln T, in which the loss has one valley. A prior on ln T holds it where answers are
few: a handful is often all right or half wrong by chance. Assumed: answers are independent draws of
what will be asked. ``tests/unit/test_statistics_calibration.py`` draws answers from known
temperatures and finds them again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed before any answer: ln T is normal around ln ``temperature`` with deviation
    ``spread``. It is looked for between the logs ``least`` and ``most``."""

    temperature: float
    spread: float
    least: float
    most: float


def fit_temperature(logits: Array, truth: Array, prior: Prior, tolerance: float = 1e-5) -> float:
    """The most probable temperature; the prior's own without answers.

    ``logits`` (answers, labels) may be log-probabilities, −inf where an answer lacks a label; a
    constant per row changes nothing. ``truth`` (answers,) are the logits of the right labels, which
    need not be among them. ln T is found to about ``tolerance``.
    """
    if len(truth) == 0:
        return prior.temperature
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        likelihood = _nll(logits, truth, math.exp(log_temperature)) * len(truth)
        distance = log_temperature - math.log(prior.temperature)
        return likelihood + distance**2 / (2 * prior.spread**2)

    best = minimize_scalar(
        loss,
        bounds=(prior.least, prior.most),
        method="bounded",
        options={"xatol": tolerance},
    )
    return float(math.exp(best.x))


def mean_nll(logits: Array, targets: Sequence[int], temperature: float = 1.0) -> float:
    """Mean −ln of the probability of each target, a column of ``logits``."""
    return _nll(logits, logits[np.arange(len(targets)), list(targets)], temperature)


def _nll(logits: Array, truth: Array, temperature: float) -> float:
    scaled = logits / temperature
    top = scaled.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(scaled - top).sum(axis=1))
    return float(np.mean(normaliser - (truth / temperature - top[:, 0])))
