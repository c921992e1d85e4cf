"""How sure a release really is: the temperature of its probabilities on audited answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flywheel.contracts.stores import AuditedPrediction
from flywheel.statistics import calibration
from flywheel.statistics.calibration import Prior

# Few audits move T little from 1, what the release says by itself.
PRIOR = Prior(temperature=1.0, spread=0.5, least=math.log(0.2), most=math.log(5.0))
_FLOOR = 1e-9
_TOLERANCE = 1e-9


def fit_temperature(audits: Sequence[AuditedPrediction]) -> float:
    """The temperature that makes the audited labels most likely; 1.0 without audits.

    Only routing and what people see use it: the auto-label certificate does not (see ``policy``),
    so no audit is used twice.
    """
    # One that nobody can label says nothing of how sure the others should be.
    rows = [audit for audit in audits if len(audit.scores) > 1 and audit.label is not None]
    logits = np.full((len(rows), max((len(audit.scores) for audit in rows), default=0)), -np.inf)
    truth = np.empty(len(rows))
    for index, audit in enumerate(rows):
        logs = np.log(np.maximum(np.fromiter(audit.scores.values(), float), _FLOOR))
        logits[index, : len(logs)] = logs
        truth[index] = np.log(max(audit.scores.get(audit.label or "", 0.0), _FLOOR))
    return calibration.fit_temperature(logits, truth, PRIOR, _TOLERANCE)
