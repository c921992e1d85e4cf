"""How good and how honest a release's answers are, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flywheel.kinds.answers import Answers
from flywheel.kinds.predictions import Prediction
from flywheel.statistics.proportions import wilson_interval

_BINS = 10


def measure(
    predictions: Sequence[Prediction], answers: Answers, confidence: float
) -> dict[str, Any]:
    """Every metric of one set of predictions, as plain JSON values; intervals at ``confidence``.

    Those of every kind first, then those that such ``answers`` have alone.
    """
    right = sum(p.correct for p in predictions)
    total = len(predictions)
    low, high = wilson_interval(right, total, confidence)
    return {
        "samples": total,
        "correct": right,
        "accuracy": right / total if total else 0.0,
        "accuracy_low": low,
        "accuracy_high": high,
        "confidence": confidence,
        "ece": expected_calibration_error(predictions),
        "mean_confidence": sum(p.confidence for p in predictions) / total if total else 0.0,
        **answers.measure(predictions, confidence),
    }


def expected_calibration_error(predictions: Sequence[Prediction]) -> float:
    """Mean distance of confidence to accuracy over ten bins of equal width (Guo et al. 2017)."""
    bins: list[list[Prediction]] = [[] for _ in range(_BINS)]
    for prediction in predictions:
        bins[min(_BINS - 1, int(prediction.confidence * _BINS))].append(prediction)
    gaps = (abs(sum(p.confidence - p.correct for p in inside)) for inside in bins)
    return sum(gaps) / len(predictions) if predictions else 0.0
