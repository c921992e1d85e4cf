"""How good and how honest a release's answers are, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from flywheel.contracts.answers import is_right
from flywheel.statistics.proportions import wilson_interval

_BINS = 10
_SMALLEST = 1e-12


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a release said of a sample whose label is known.

    Free text has no ``scores``; how sure the release was of it is ``reported``.
    """

    sample_id: str
    label: str
    prediction: str
    scores: dict[str, float]
    reported: float | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer was right: the label itself, or the same text once normalised."""
        return is_right(self.prediction, self.label, self.scores)

    @property
    def confidence(self) -> float:
        """What the release reported; by default the largest probability."""
        if self.reported is not None:
            return self.reported
        return max(self.scores.values(), default=0.0)


def expected_calibration_error(predictions: Sequence[Prediction]) -> float:
    """Mean distance of confidence to accuracy over ten bins of equal width (Guo et al. 2017)."""
    bins: list[list[Prediction]] = [[] for _ in range(_BINS)]
    for prediction in predictions:
        bins[min(_BINS - 1, int(prediction.confidence * _BINS))].append(prediction)
    gaps = (abs(sum(p.confidence - p.correct for p in inside)) for inside in bins)
    return sum(gaps) / len(predictions) if predictions else 0.0


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


def measure(
    predictions: Sequence[Prediction], labels: Sequence[str], confidence: float
) -> dict[str, Any]:
    """Every metric of one set of predictions, as plain JSON values; intervals at ``confidence``.

    Without ``labels`` the answers are free text: ``accuracy`` is the share of exact matches once
    normalised, there is ``chrf`` (with its signature) and ``token_f1``, and nothing by label.
    """
    if not labels:
        from flywheel.evaluation.text_metrics import measure_text

        return _measure_all(predictions, confidence) | measure_text(predictions)
    table = confusion(predictions, labels)
    classes = {label: _class_metrics(label, table, confidence) for label in labels}
    seen = [row["f1"] for row in classes.values() if row["samples"] or row["answered"]]
    return _measure_all(predictions, confidence) | {
        "macro_f1": sum(seen) / len(seen) if seen else 0.0,
        "brier": brier_score(predictions),
        "nll": negative_log_likelihood(predictions),
        "classes": classes,
        "confusion": table,
    }


def _measure_all(predictions: Sequence[Prediction], confidence: float) -> dict[str, Any]:
    """What can be said of answers of either kind."""
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
    }


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
