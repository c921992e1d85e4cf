"""How good a model that a test loaded is on a holdout; a turn asks it through a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flywheel.contracts.dataset_folder import read_part
from flywheel.contracts.layout import METRICS_FILE, PREDICTIONS_FILE
from flywheel.contracts.model_folder import write_json
from flywheel.evaluation.answered import write_predictions
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Answers
from flywheel.kinds.predictions import Answer, as_predictions


def holdout_metrics(
    predict: Callable[[Sequence[str]], Sequence[Answer]],
    dataset: Path,
    answers: Answers,
    folder: Path | None = None,
) -> dict[str, Any]:
    """The metrics on the holdout of ``dataset``; a ``folder`` gets them and the answers."""
    lines = read_part(dataset, "holdout")
    predictions = as_predictions(lines, predict([line.text for line in lines]))
    metrics = measure(predictions, answers, 0.95)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / PREDICTIONS_FILE, predictions)
        write_json(folder / METRICS_FILE, metrics)
    return metrics
