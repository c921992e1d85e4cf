"""How good and how honest answers are that are one of the labels, label by label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flywheel.kinds.predictions import Prediction
from flywheel.statistics.proportions import wilson_interval

_SMALLEST = 1e-12


def measure_labels(
    predictions: Sequence[Prediction], labels: Sequence[str], confidence: float
) -> dict[str, Any]:
    """``macro_f1``, ``brier``, ``nll``, and each label's own metrics and confusions."""
    table = confusion(predictions, labels)
    classes = {label: _class_metrics(label, table, confidence) for label in labels}
    seen = [row["f1"] for row in classes.values() if row["samples"] or row["answered"]]
    return {
        "macro_f1": sum(seen) / len(seen) if seen else 0.0,
        "brier": brier_score(predictions),
        "nll": negative_log_likelihood(predictions),
        "classes": classes,
        "confusion": table,
    }


def brier_score(predictions: Sequence[Prediction]) -> float:
    """Mean squared distance of the probabilities to the truth, summed over labels: 0 to 2."""
    total = 0.0
    for prediction in predictions:
        scores = prediction.scores
        total += sum((p - (label == prediction.label)) ** 2 for label, p in scores.items())
        total += prediction.label not in scores
    return total / len(predictions) if predictions else 0.0


def negative_log_likelihood(predictions: Sequence[Prediction]) -> float:
    """Mean −ln of the probability given to the true label."""
    if not predictions:
        return 0.0
    return -sum(math.log(max(p.scores.get(p.label, 0.0), _SMALLEST)) for p in predictions) / len(
        predictions
    )


def confusion(
    predictions: Sequence[Prediction], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    """True label → answer → samples."""
    table = {label: dict.fromkeys(labels, 0) for label in labels}
    for prediction in predictions:
        row = table.setdefault(prediction.label, dict.fromkeys(labels, 0))
        row[prediction.prediction] = row.get(prediction.prediction, 0) + 1
    return table


def _class_metrics(
    label: str, table: dict[str, dict[str, int]], confidence: float
) -> dict[str, float]:
    samples = sum(table[label].values())
    hits = table[label].get(label, 0)
    answered = sum(row.get(label, 0) for row in table.values())
    low, high = wilson_interval(hits, samples, confidence)
    return {
        "samples": samples,
        "answered": answered,
        "accuracy": hits / samples if samples else 0.0,
        "accuracy_low": low,
        "accuracy_high": high,
        "precision": hits / answered if answered else 0.0,
        "f1": 2 * hits / (samples + answered) if samples + answered else 0.0,
    }
