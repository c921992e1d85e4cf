"""The compress stage, wired: every variant is made, calibrated, asked, measured and compared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog

from flywheel.compression.calibrate import fit_temperature
from flywheel.compression.compare import REFERENCE, Comparison, Evidence, compare
from flywheel.contracts.layout import METRICS_FILE, PREDICTIONS_FILE
from flywheel.contracts.model_folder import (
    COMPRESSION_REPORT,
    read_description,
    write_description,
    write_json,
)
from flywheel.contracts.witness import read_witness
from flywheel.errors import ArtefactError, ConfigurationError, FlywheelError, PipelineError
from flywheel.evaluation.answered import read_predictions, write_predictions
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Answers
from flywheel.kinds.predictions import as_predictions, probabilities
from flywheel.statistics.calibration import mean_nll
from flywheel.turn.measure import Answer, ServedFolder
from flywheel.turn.same_answers import Letters, check_served
from flywheel.turn.variants import Trial, VariantSetup, fail, make_variants

COMPARISON_FILE = "comparison.json"
PREDICTIONS = "predictions"
_SMALLEST = 1e-30

_log = structlog.get_logger(__name__)


class CompressionReport(msgspec.Struct, frozen=True, kw_only=True):
    """compression.json: what was chosen and what it changed. Accuracies, losses and NLL are of the
    calibration split, and None when it is empty or the answers are free text; ``agreement`` is the
    share of answers there that equal the reference's."""

    variant: str
    method: str
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    calibration_samples: int
    accuracy_before: float | None
    accuracy_after: float | None
    agreement: float | None
    temperature: float
    nll_uncalibrated: float | None
    nll_calibrated: float | None
    seconds: float


def compare_variants(setup: VariantSetup, output: Path) -> Comparison:
    """Make, calibrate, ask and measure the reference and every variant of ``setup.settings``.

    Writes comparison.json and predictions/<variant>.jsonl to ``output``, and leaves the chosen
    model in ``setup.scratch / <variant>``. Raises PipelineError when the reference or a pinned
    variant fails; another that does stands in the table with the reason.
    """
    trials = make_variants(setup, [REFERENCE, *setup.settings.variants])
    if setup.engine == "embedded" and setup.model.kind == "encoder":
        _ask_embedded(setup, trials)
    else:
        for trial in trials:
            _ask_served(setup, trial)
    evidence = [_evidence(setup, trial, output) for trial in trials]
    settings = setup.settings
    comparison = compare(
        evidence,
        margin=settings.margin,
        max_loss=settings.max_accuracy_loss,
        pin=settings.pin,
        engine=setup.engine,
    )
    write_json(output / COMPARISON_FILE, comparison)
    chosen = next(trial for trial in trials if trial.name == comparison.chosen)
    _require_served(setup, trials, chosen)
    write_json(chosen.folder / COMPRESSION_REPORT, _report(setup, trials[0], chosen))
    _log.info("variants compared", chosen=comparison.chosen, reason=comparison.reason)
    return comparison


def _serve(setup: VariantSetup, trial: Trial) -> ServedFolder:
    return ServedFolder(
        trial.folder,
        engine=setup.engine,
        labels=setup.answers.scored,
        bases=setup.bases,
        workspace=setup.workspace,
        threads=setup.threads,
    )


def _ask_embedded(setup: VariantSetup, trials: Sequence[Trial]) -> None:
    """Servers start while this process computes the answers; speed is measured one by one, when
    nothing else of ours runs."""
    with ExitStack() as stack:
        servers: list[tuple[Trial, ServedFolder]] = []
        for trial in trials:
            if trial.report is not None and setup.served(trial.name):
                server = _serve(setup, trial)
                stack.callback(server.stop)
                servers.append((trial, server))
        for trial in trials:
            _predict_here(setup, trial)
        for trial, server in servers:
            _measure(setup, trial, server)
            server.stop()


def _predict_here(setup: VariantSetup, trial: Trial) -> None:
    from flywheel.serving.runtime import load_classifier

    if trial.failure:
        return
    try:
        # An answer does not depend on the threads that compute it.
        classifier = load_classifier(trial.folder, os.cpu_count() or 1)
        if trial.name == REFERENCE:
            check_witness(setup.trained, classifier.predict)
        trial.answers = list(classifier.predict(setup.texts))
    except FlywheelError as error:
        fail(trial, error)


def _ask_served(setup: VariantSetup, trial: Trial) -> None:
    """Ask one server at a time: with vLLM each takes gigabytes and every core."""
    if setup.in_process(trial.name):
        _predict_here(setup, trial)
    if trial.failure or not setup.served(trial.name):
        return
    server = _serve(setup, trial)
    try:
        server.ready()
        if trial.name == REFERENCE:
            check_witness(setup.trained, server.answers)
        if not trial.answers:
            trial.answers = server.answers(setup.texts)
        _measure(setup, trial, server)
    except FlywheelError as error:
        fail(trial, error)
    finally:
        server.stop()


def check_witness(trained: Path, ask: Callable[[Sequence[str]], Sequence[Answer]]) -> None:
    """Raise ArtefactError where an engine computes another network than the one trained."""
    witness = read_witness(trained)
    if witness is not None:
        check_served(Letters(witness), ask(witness.texts), "the trained model")


def _require_served(setup: VariantSetup, trials: Sequence[Trial], chosen: Trial) -> None:
    """Raise PipelineError where vLLM served no variant of this model, the chosen one included: the
    release would be registered, and never answer."""
    if setup.engine == "embedded" or any(
        setup.served(trial.name) and not trial.failure for trial in trials
    ):
        return
    server = _serve(setup, chosen)
    try:
        server.ready()
    finally:
        server.stop()


def _measure(setup: VariantSetup, trial: Trial, server: ServedFolder) -> None:
    if trial.failure or not setup.timed(trial.name):
        return
    try:
        server.ready()
        trial.speed = server.speed(
            [line.text for line in setup.holdout],
            setup.settings.measure_seconds,
            accelerator=setup.accelerator,
        )
    except FlywheelError as error:
        fail(trial, error)


def _evidence(setup: VariantSetup, trial: Trial, output: Path) -> Evidence:
    report = trial.report
    if report is None:
        method = setup.settings.recipe(trial.name).quantise
        return Evidence(name=trial.name, method=method, failure=trial.failure)
    right: tuple[bool, ...] = ()
    if not trial.failure:
        _calibrate(setup, trial)
        predictions = as_predictions(setup.holdout, trial.answers[len(setup.calibration) :])
        right = tuple(prediction.correct for prediction in predictions)
        path = predictions_path(output, trial.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(path, predictions)
    return Evidence(
        name=trial.name,
        method=report.method,
        steps=report.steps,
        notes=report.notes,
        bytes=report.bytes,
        seconds=report.seconds,
        temperature=trial.temperature,
        right=right,
        speed=trial.speed,
        failure=trial.failure,
    )


def predictions_path(comparison: Path, name: str) -> Path:
    """Where the held-out answers of one variant lie."""
    return comparison / PREDICTIONS / f"{name}.jsonl"


def _calibrate(setup: VariantSetup, trial: Trial) -> None:
    """Fit the temperature, write it into release.json, and have the answers follow it.

    A variant is served with temperature 1 until then: softmax(log p / T) is what it answers once T
    stands in release.json, so that it need not be asked again.
    """
    if not setup.answers.scored:
        return
    logs = _log_probabilities(trial.answers, setup.model.labels)
    trial.temperature = fit_temperature(logs[: len(setup.calibration)], _targets(setup))
    scaled = logs / trial.temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    shares = np.exp(scaled)
    shares /= shares.sum(axis=1, keepdims=True)
    trial.answers = [dict(zip(setup.model.labels, row, strict=True)) for row in shares.tolist()]
    description = read_description(trial.folder)
    write_description(
        trial.folder, msgspec.structs.replace(description, temperature=trial.temperature)
    )


def _log_probabilities(answers: Sequence[Answer], labels: Sequence[str]) -> np.ndarray:
    rows = [[given[label] for label in labels] for given in probabilities(answers)]
    return np.log(np.maximum(np.array(rows, dtype=np.float64).reshape(-1, len(labels)), _SMALLEST))


def _targets(setup: VariantSetup) -> list[int]:
    labels = setup.model.labels
    unknown = sorted({line.label for line in setup.calibration} - set(labels))
    if unknown:
        raise ConfigurationError("labels", f"the model was not trained on {unknown}", "train again")
    return [labels.index(line.label) for line in setup.calibration]


def _report(setup: VariantSetup, reference: Trial, chosen: Trial) -> CompressionReport:
    made, before = chosen.report, reference.report
    if made is None or before is None:
        raise PipelineError(f"{chosen.name} was not made")
    report = CompressionReport(
        variant=chosen.name,
        method=made.method,
        steps=made.steps,
        notes=made.notes,
        bytes_before=before.bytes,
        bytes_after=made.bytes,
        calibration_samples=len(setup.calibration),
        accuracy_before=None,
        accuracy_after=None,
        agreement=None,
        temperature=chosen.temperature,
        nll_uncalibrated=None,
        nll_calibrated=None,
        seconds=made.seconds,
    )
    if not setup.calibration:
        return report
    count, labels, targets = len(setup.calibration), setup.model.labels, _targets(setup)
    was = _log_probabilities(reference.answers[:count], labels)
    now = _log_probabilities(chosen.answers[:count], labels)
    return msgspec.structs.replace(
        report,
        accuracy_before=float(np.mean(was.argmax(axis=1) == targets)),
        accuracy_after=float(np.mean(now.argmax(axis=1) == targets)),
        agreement=float(np.mean(was.argmax(axis=1) == now.argmax(axis=1))),
        # What is kept is calibrated already: the temperature taken back gives what was not.
        nll_uncalibrated=mean_nll(now, targets, 1 / chosen.temperature),
        nll_calibrated=mean_nll(now, targets),
    )


def install(setup: VariantSetup, chosen: str, folder: Path) -> None:
    """Put the chosen variant where the release is made from, and drop the others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(setup.scratch / chosen, folder)
    shutil.rmtree(setup.scratch, ignore_errors=True)


def read_comparison(folder: Path) -> Comparison:
    """comparison.json. Raises ArtefactError when it is missing or damaged."""
    path = folder / COMPARISON_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Comparison)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error


def evaluate_chosen(
    comparison: Path, answers: Answers, folder: Path, *, confidence: float
) -> dict[str, Any]:
    """metrics.json and predictions.jsonl of the chosen variant, from what it answered already."""
    compared = read_comparison(comparison)
    predictions = read_predictions(predictions_path(comparison, compared.chosen))
    metrics = measure(predictions, answers, confidence)
    speed = compared.row(compared.chosen).speed
    if speed is not None:
        metrics |= {
            "texts_per_second": speed.per_second,
            "latency_p50_ms": speed.p50_ms,
            "latency_p95_ms": speed.p95_ms,
        }
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / PREDICTIONS_FILE, predictions)
    write_json(folder / METRICS_FILE, metrics)
    return metrics
