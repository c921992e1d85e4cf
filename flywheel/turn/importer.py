"""Wires the trainer's imports: a staged model is measured, meets the gate and becomes a release."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from flywheel.contracts.base_folder import put_base
from flywheel.contracts.dataset_folder import DatasetLine, Manifest, read_manifest, read_part
from flywheel.contracts.ids import utc_now
from flywheel.contracts.layout import BASES, PREDICTIONS_FILE
from flywheel.contracts.model_folder import read_base, read_description
from flywheel.contracts.model_server import PROBE
from flywheel.contracts.release import Release, registered_already
from flywheel.datasets.build import build_dataset
from flywheel.errors import ArtefactError
from flywheel.evaluation.answered import write_predictions
from flywheel.evaluation.gate import GateDecision
from flywheel.evaluation.gate import decide as gate
from flywheel.evaluation.metrics import measure
from flywheel.kinds.predictions import Prediction, as_predictions
from flywheel.registry.release_folder import (
    PARTS,
    RECORD_FILE,
    SERVED,
    assemble,
    read_record,
    release_folder,
    verify_release,
)
from flywheel.retention.releases import refuse_pruned
from flywheel.retraining.ports import IMPORT, GateRefusal, TurnRequest
from flywheel.settings import FlywheelSettings, TaskSettings
from flywheel.turn.artefacts import open_release_folders, patiently
from flywheel.turn.champion import champion_answers
from flywheel.turn.same_answers import by_transformers, check_served, compared
from flywheel.turn.served import Answering, Serve, served_folder
from flywheel.turn.staging import COMPARED, MODEL, Staged, check_fits, staged_folder
from storage.database import Database

# The dataset version of a model that was made nobody knows from what.
EXTERNAL = "external"
ORIGIN_FILE = "origin.json"
# One at a time and then 16 at a time: enough to know the order of magnitude.
SPEED_SECONDS = 2.0
# What was found where a release was made is kept with it.
_REPORTS = ("training", "compression", "comparison")

_log = structlog.get_logger(__name__)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answered on the workspace's held-out samples; none: nothing is held out."""

    metrics: dict[str, Any]
    predictions: list[Prediction]
    lines: Sequence[DatasetLine]
    on: str


class WorkspaceImporter:
    """Implements ``retraining.ports.Importer`` over one workspace."""

    def __init__(
        self, settings: FlywheelSettings, database: Database, serve: Serve | None = None
    ) -> None:
        self._settings = settings
        self._database = database
        self._serve = serve or served_folder(settings)
        self._folders = open_release_folders(settings, database)
        self._sweep()

    def bring_in(self, request: TurnRequest) -> Release | GateRefusal:
        """Measure, ask the gate, assemble. See the port."""
        staged = msgspec.convert(request.overrides[IMPORT], Staged)
        folder = patiently(
            lambda: staged_folder(self._settings, request.request_id, staged), time.sleep
        )
        model, origin, manifest = self._read(request.task, folder, staged)
        known = self._known(staged, request)
        if known is not None:
            return known
        measured = self._measure(request.task, model, folder, staged.source)
        decision = self._gate(request.task, measured)
        if not decision.passed and request.override is None:
            return GateRefusal(reason=decision.reason)
        self._put_bases(folder)
        return self._assemble(request, staged, model, origin, manifest, measured, decision)

    def forget(self, request: TurnRequest) -> None:
        """Remove what was staged for a request."""
        folder = self._settings.layout.imports / request.request_id
        shutil.rmtree(folder, ignore_errors=True)

    def _read(
        self, task: str, folder: Path, staged: Staged
    ) -> tuple[Path, Release | None, Manifest]:
        """The staged model, verified again; the record and the dataset it came with."""
        of_task = self._settings.task(task)
        if staged.release is None:
            read_description(folder / MODEL)
            return folder / MODEL, None, _unknown_data(task, of_task)
        check_fits(self._settings, task, verify_release(folder, staged.release))
        model = release_folder(folder, staged.release)
        return model, read_record(model), read_manifest(model, check=False)

    def _known(self, staged: Staged, request: TurnRequest) -> Release | None:
        """The release, where this very request registered it before the trainer was stopped."""
        if staged.release is None:
            return None
        with self._database.transaction(read_only=True) as tx:
            known, pruned = tx.releases.get(staged.release), tx.pruned.get(staged.release)
        refuse_pruned(pruned)
        if known is None:
            return None
        if known.recipe.get("imported", {}).get("request") == request.request_id:
            return known
        raise ArtefactError(registered_already(known))

    def _measure(self, task: str, model: Path, folder: Path, source: str) -> Measured:
        lines, version = self._holdout(task, folder)
        of_task = self._settings.task(task)
        bases = folder / BASES
        # Before anything serves it: both at once might not fit into memory.
        reference = by_transformers(model, bases)
        with self._serve(model, bases, of_task.answers.scored) as served:
            if reference is not None:
                check_served(reference, served.answers(reference.texts), source)
            return measure_served(served, lines, version, of_task)

    def _holdout(self, task: str, folder: Path) -> tuple[list[DatasetLine], str]:
        """What is held out: by the newest dataset, or by the labels there are, before the first."""
        built = self._settings.layout.dataset(task)
        try:
            manifest = read_manifest(built)
        except ArtefactError:
            manifest = None
        if manifest is None or not manifest.count("holdout"):
            manifest, built = self._build(task, folder / "dataset"), folder / "dataset"
        return (read_part(built, "holdout"), manifest.version) if manifest else ([], "")

    def _build(self, task: str, folder: Path) -> Manifest | None:
        of_task = self._settings.task(task)
        with self._database.transaction(read_only=True) as tx:
            watermark = tx.labels.watermark(task)
            samples = tx.labels.settled(task, watermark) if watermark else []
        if not samples:
            return None
        shutil.rmtree(folder, ignore_errors=True)
        return build_dataset(
            samples,
            of_task.dataset,
            of_task.answers,
            task=task,
            watermark=watermark or "",
            parent=None,
            folder=folder,
            retired=of_task.retired_labels,
        )

    def _gate(self, task: str, measured: Measured) -> GateDecision:
        with self._database.transaction(read_only=True) as tx:
            champion = tx.rollouts.champion(task)
        settings = self._settings.task(task).gate
        if not measured.predictions:
            refused = gate(None, [], settings)
            reason = (
                f"{refused.reason}; `flywheel ingest FILE --split holdout` brings some in, "
                "and --override, with who and why, does without"
            )
            return msgspec.structs.replace(refused, reason=reason)
        before = None
        if champion is not None:
            with patiently(lambda: self._folders.hold(champion), time.sleep) as folder:
                before = champion_answers(self._settings, task, folder, measured.lines, self._serve)
        return gate(before, measured.predictions, settings)

    def _put_bases(self, folder: Path) -> None:
        for base in sorted((folder / BASES).glob("*")):
            about = read_base(base)
            put = put_base(base, self._settings.layout.bases, name=about.name, method=about.method)
            if put.id != base.name:
                raise ArtefactError(f"base {base.name} is {put.id} by the files that serve")

    def _assemble(
        self,
        request: TurnRequest,
        staged: Staged,
        model: Path,
        origin: Release | None,
        manifest: Manifest,
        measured: Measured,
        decision: GateDecision,
    ) -> Release:
        extras = self._extras(request, model, origin, measured)
        parts = {"feature_view": "", "deployment": self._settings.serving.engine}
        release = assemble(
            model,
            metrics={**_metrics(measured, origin), "gate": msgspec.to_builtins(decision)},
            manifest=manifest,
            to_root=self._settings.layout.releases,
            created_at=utc_now(),
            git_commit=origin.git_commit if origin else "",
            parent=None,
            gate_passed=decision.passed,
            gate_reason=decision.reason,
            override=request.override,
            recipe=_recipe(request, staged, origin, model),
            parts=origin.recipe[PARTS] if origin else parts,
            extras=extras,
        )
        if staged.release is not None and release.release != staged.release:
            raise ArtefactError(f"{staged.release} would be {release.release} here: it was changed")
        return patiently(lambda: self._folders.publish(release), time.sleep)

    def _extras(
        self, request: TurnRequest, model: Path, origin: Release | None, measured: Measured
    ) -> dict[str, Path]:
        predictions = self._settings.layout.imports / request.request_id / PREDICTIONS_FILE
        write_predictions(predictions, measured.predictions)
        extras = {PREDICTIONS_FILE: predictions}
        return extras | ({ORIGIN_FILE: model / RECORD_FILE} if origin else {})

    def _sweep(self) -> None:
        """Remove what is left of imports that have ended, by a trainer that was killed then."""
        left = {folder.name for folder in self._settings.layout.imports.glob("*")}
        for task in self._settings.tasks if left else ():
            with self._database.transaction(read_only=True) as tx:
                ended = {t.turn_id for t in tx.turns.history(task) if t.ended_at is not None}
            for name in left & ended:
                shutil.rmtree(self._settings.layout.imports / name, ignore_errors=True)


def measure_served(
    served: Answering, lines: Sequence[DatasetLine], version: str, task: TaskSettings
) -> Measured:
    """What a model answers on held-out samples; without any, only that it answers at all."""
    if not lines:
        served.answers([PROBE])
        metrics = measure([], task.answers, task.gate.confidence)
        return Measured(metrics=metrics, predictions=[], lines=lines, on=version)
    texts = [line.text for line in lines]
    predictions = as_predictions(lines, served.answers(texts))
    speed = served.speed(texts, SPEED_SECONDS)
    metrics = measure(predictions, task.answers, task.gate.confidence) | {
        "latency_p50_ms": speed.p50_ms,
        "latency_p95_ms": speed.p95_ms,
        "texts_per_second": speed.per_second,
    }
    return Measured(metrics=metrics, predictions=predictions, lines=lines, on=version)


def _unknown_data(task: str, of_task: TaskSettings) -> Manifest:
    return Manifest(
        version=EXTERNAL,
        task=task,
        labels=of_task.labels,
        watermark="",
        parent=None,
        split_rule="not known: the model was made elsewhere",
        files={},
        counts={},
        label_counts={},
        left_out={},
    )


def _metrics(measured: Measured, origin: Release | None) -> dict[str, Any]:
    """What was measured here; where nothing could be, what was measured where it was made."""
    here = {**measured.metrics, "measured_on": measured.on}
    if origin is None:
        return here
    if not measured.predictions:
        return {"measured_on": origin.dataset_version, **origin.metrics}
    return {name: origin.metrics[name] for name in _REPORTS if name in origin.metrics} | here


def _recipe(
    request: TurnRequest, staged: Staged, origin: Release | None, model: Path
) -> dict[str, Any]:
    imported: dict[str, Any] = {
        "source": staged.source,
        "by": request.by,
        "why": request.why,
        "request": request.request_id,
        COMPARED: compared(read_description(model), staged.release is not None),
    }
    if origin is None:
        return {"imported": imported}
    imported |= {
        "registered_at": origin.created_at.isoformat(),
        "parent": origin.parent,
        "accuracy": origin.accuracy,
        "accuracy_low": origin.accuracy_low,
        "accuracy_high": origin.accuracy_high,
        "gate_reason": origin.gate_reason,
    }
    recipe = {k: v for k, v in origin.recipe.items() if k not in (PARTS, SERVED)}
    return {**recipe, "imported": imported}
