"""Temperature scaling of a release's probabilities on audited answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flywheel.contracts.stores import AuditedPrediction

# log T is taken to be normal with this deviation before any audit: few audits move T little.
PRIOR_DEVIATION = 0.5
_LOWEST, _HIGHEST = 0.2, 5.0
_FLOOR = 1e-9


def fit_temperature(audits: Sequence[AuditedPrediction]) -> float:
    """The temperature that makes the audited labels most likely; 1.0 without audits.

    Penalised negative log-likelihood over one parameter (Guo et al. 2017, arXiv 1706.04599),
    minimised by golden-section search over log T. Only routing and what people see use it: the
    auto-label certificate does not (see ``policy``), so no audit is used twice.
    """
    # One that nobody can label says nothing of how sure the others should be.
    rows = [audit for audit in audits if len(audit.scores) > 1 and audit.label is not None]
    if not rows:
        return 1.0
    width = max(len(audit.scores) for audit in rows)
    logits = np.full((len(rows), width), -np.inf)
    truth = np.empty(len(rows))
    for index, audit in enumerate(rows):
        logs = np.log(np.maximum(np.fromiter(audit.scores.values(), float), _FLOOR))
        logits[index, : len(logs)] = logs
        truth[index] = np.log(max(audit.scores.get(audit.label or "", 0.0), _FLOOR))

    def loss(log_t: float) -> float:
        scale = np.exp(-log_t)
        scaled = logits * scale
        top = scaled.max(axis=1, keepdims=True)
        partition = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
        penalty = log_t**2 / (2.0 * PRIOR_DEVIATION**2)
        return float((partition - truth * scale).sum() + penalty)

    low, high = float(np.log(_LOWEST)), float(np.log(_HIGHEST))
    golden = (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))
