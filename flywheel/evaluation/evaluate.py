"""Answers every held-out sample once, keeps the answers, and measures them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from flywheel.contracts.dataset_folder import DatasetLine
from flywheel.contracts.model_folder import write_json
from flywheel.errors import ArtefactError, PipelineError
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Answers
from flywheel.kinds.predictions import Answer, Prediction, as_predictions

PREDICTIONS_FILE = "predictions.jsonl"
METRICS_FILE = "metrics.json"


# Texts → for each a probability for every label, or a generated answer.
Predict = Callable[[Sequence[str]], Sequence[Answer]]


def evaluate(
    predict: Predict,
    holdout: Path,
    answers: Answers,
    folder: Path,
    *,
    confidence: float = 0.95,
    latency_requests: int = 100,
) -> dict[str, Any]:
    """Measure a loaded release on ``holdout.jsonl``; ``answers`` are those that it can give.

    Writes ``predictions.jsonl`` (so that a later challenger is compared without asking this release
    again) and ``metrics.json`` into ``folder``; returns the metrics. Raises PipelineError when
    nothing is held out.
    """
    try:
        lines = msgspec.json.Decoder(DatasetLine).decode_lines(holdout.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtefactError(f"{holdout} cannot be read: {error}") from error
    if not lines:
        raise PipelineError(
            f"{holdout.name} is empty: ingest some labelled samples with --split holdout, or set "
            "dataset.holdout_share"
        )
    texts = [line.text for line in lines]
    started = time.perf_counter()
    given = predict(texts)
    seconds = time.perf_counter() - started
    predictions = as_predictions(lines, given)
    metrics = measure(predictions, answers, confidence) | {
        "texts_per_second": len(texts) / seconds,
        **measure_latency(predict, texts, latency_requests),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / PREDICTIONS_FILE, predictions)
    write_json(folder / METRICS_FILE, metrics)
    return metrics


def measure_latency(predict: Predict, texts: Sequence[str], requests: int) -> dict[str, float]:
    """``latency_p50_ms`` and ``latency_p95_ms`` of single requests, after a short warm-up."""
    for text in texts[:5]:
        predict([text])
    taken: list[float] = []
    for index in range(requests):
        started = time.perf_counter()
        predict([texts[index % len(texts)]])
        taken.append((time.perf_counter() - started) * 1000)
    taken.sort()
    return {
        "latency_p50_ms": taken[len(taken) // 2],
        "latency_p95_ms": taken[min(len(taken) - 1, int(len(taken) * 0.95))],
    }


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """One JSON line a sample."""
    path.write_bytes(b"".join(msgspec.json.encode(p) + b"\n" for p in predictions))


def read_predictions(path: Path) -> list[Prediction]:
    """What ``write_predictions`` wrote. Raises ArtefactError when missing or damaged."""
    try:
        return msgspec.json.Decoder(Prediction).decode_lines(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
