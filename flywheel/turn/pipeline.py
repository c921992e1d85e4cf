"""The workspace's DVC pipeline, its gate and the registry's folder, as one turn uses them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from flywheel.contracts.dataset_folder import PARTS, read_manifest, read_part
from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.layout import METRICS_FILE, PREDICTIONS_FILE
from flywheel.contracts.release import Override, Release
from flywheel.datasets.workspace import (
    commit_dataset,
    commit_results,
    discard_built,
    mend,
    settle_remote,
)
from flywheel.errors import FlywheelError, PipelineError, StageKilled
from flywheel.evaluation.answered import read_predictions
from flywheel.evaluation.config import GateSettings
from flywheel.evaluation.gate import GateDecision
from flywheel.evaluation.gate import decide as gate
from flywheel.registry.release_folder import assemble
from flywheel.retraining.ports import GateRefusal, Turn, TurnRequest
from flywheel.settings import FlywheelSettings
from flywheel.triage.policy import audited_error
from flywheel.turn.artefacts import open_release_folders, patiently
from flywheel.turn.champion import champion_answers
from flywheel.turn.compress import COMPARISON_FILE
from flywheel.turn.params import (
    MERGE,
    read_params,
    task_params,
    turn_params,
    write_params,
)
from flywheel.turn.reproduce import reproduce
from storage.database import Database

# A stage that something killed (no memory, a person) is run once more before the turn fails.
ATTEMPTS = 2
FEATURE_VIEW = "source_history/1"

_log = structlog.get_logger(__name__)


class WorkspacePipeline:
    """Implements ``retraining.ports.Pipeline`` over one workspace."""

    def __init__(
        self, settings: FlywheelSettings, database: Database, stopping: threading.Event
    ) -> None:
        self._settings = settings
        self._database = database
        self._stopping = stopping
        self._folders = open_release_folders(settings, database)
        try:
            settle_remote(settings.workspace, settings.dvc_remote_url)
            mend(settings.workspace)
        except FlywheelError as error:
            # The next turn tries again, and fails for this reason.
            _log.error("datasets cannot be kept", error=str(error))

    def prepare(self, turn: Turn, request: TurnRequest | None, watermark: str) -> None:
        """Write params.yaml for this turn. One that merges goes back to the champion's dataset."""
        with self._database.transaction(read_only=True) as tx:
            latest = tx.datasets.latest(turn.task)
            champion = tx.rollouts.champion(turn.task)
            parent = latest.version if latest else None
            start_from = champion
            if request is not None and request.overrides.get(MERGE):
                serving = tx.releases.get(champion) if champion else None
                mine = [
                    version
                    for version in tx.datasets.history(turn.task)
                    if serving is not None and version.version == serving.dataset_version
                ]
                if not mine:
                    raise PipelineError(
                        f"{turn.task} has no champion made here that could be merged with its base"
                    )
                watermark, parent = mine[0].watermark, mine[0].parent
                start_from = serving.parent if serving else None
        tasks = read_params(self._settings.workspace)
        tasks[turn.task] = turn_params(
            self._settings.task(turn.task),
            turn,
            request,
            watermark,
            parent_dataset=parent,
            champion=champion,
            engine=self._settings.serving.engine,
            start_from=start_from,
        )
        write_params(self._settings.workspace, tasks)

    def prepared(self, turn: Turn) -> bool:
        """See the port."""
        params = read_params(self._settings.workspace).get(turn.task, {})
        return bool(params.get("turn") == turn.turn_id)

    def run(self, task: str, stage: str) -> None:
        """Reproduce one DVC stage. A stop of this process leaves the turn to be resumed."""
        settle_remote(self._settings.workspace, self._settings.dvc_remote_url)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                reproduce(self._settings.workspace, f"{stage}@{task}")
            except PipelineError as error:
                if self._stopping.is_set():
                    raise SystemExit(0) from error
                if attempt == ATTEMPTS or not isinstance(error, StageKilled):
                    raise
                _log.warning("stage was killed, running it again", stage=stage, task=task)
            else:
                return

    def stages(self, task: str) -> Sequence[str]:
        """Those of a model, where there is one of the task's kind."""
        trains = self._settings.task(task).of_kind.models
        return ("train", "compress", "evaluate") if trains else ()

    def commit_dataset(self, task: str) -> DatasetVersioned:
        """Commit the built dataset to git and DVC, and push it, with what older turns left.

        One that holds what was erased since it was built is taken away: raises PipelineError.
        """
        manifest = read_manifest(self._settings.layout.dataset(task))
        self._refuse_erased(task)
        commit = commit_dataset(self._settings.workspace, task, manifest)
        mend(self._settings.workspace)
        return DatasetVersioned(
            event_id=new_id(),
            occurred_at=utc_now(),
            task=task,
            version=manifest.version,
            parent=manifest.parent,
            git_commit=commit.git_commit,
            dvc_hash=commit.dvc_hash,
            watermark=manifest.watermark,
            expert_labels=manifest.expert_labels,
            seed_labels=manifest.seed_labels,
            auto_labels=manifest.auto_labels,
            holdout_labels=manifest.count("holdout"),
        )

    def _refuse_erased(self, task: str) -> None:
        folder = self._settings.layout.dataset(task)
        samples = {(task, line.sample_id) for part in PARTS for line in read_part(folder, part)}
        with self._database.transaction() as tx:
            erased = tx.erasures.erased(samples)
        if erased:
            discard_built(self._settings.workspace, task)
            raise PipelineError(
                f"{len(erased)} sample(s) were erased while the dataset was being built, which was "
                "taken away: the next turn builds it without them"
            )

    def assemble(
        self, turn: Turn, dataset: DatasetVersioned, override: Override | None
    ) -> Release | GateRefusal:
        """See the port."""
        workspace, task = self._settings.workspace, turn.task
        layout = self._settings.layout
        params = task_params(workspace, task)
        evaluated = layout.evaluation(task)
        decision = self._gate(task, params, evaluated)
        if not decision.passed and override is None:
            return GateRefusal(reason=decision.reason)
        metrics: dict[str, Any] = msgspec.json.decode((evaluated / METRICS_FILE).read_bytes())
        metrics["gate"] = msgspec.to_builtins(decision)
        compared = layout.comparison(task) / COMPARISON_FILE
        metrics["comparison"] = msgspec.json.decode(compared.read_bytes())
        commit = commit_results(workspace, task, f"{task}: turn {turn.turn_id}")
        language = ("lora", "prompt") if params["model"] == "llm" else ()
        kept = ("dataset", "training", *language, "compression", "gate")
        recipe = {key: params[key] for key in kept}
        base_model = Path(recipe["training"]["base_model"])
        # A record is read on other machines, where this one's paths mean nothing.
        recipe["training"] = {
            **recipe["training"],
            "base_model": str(base_model.relative_to(workspace))
            if base_model.is_relative_to(workspace)
            else base_model.name,
        }
        release = assemble(
            layout.compressed(task),
            metrics=metrics,
            manifest=read_manifest(layout.dataset(task)),
            to_root=layout.releases,
            created_at=utc_now(),
            git_commit=commit,
            parent=params["champion"],
            gate_passed=decision.passed,
            gate_reason=decision.reason,
            override=override,
            recipe={**recipe, "turn": turn.turn_id, "reason": turn.reason},
            auto_label_error=self._audited_error(task, dataset),
            parts={"feature_view": FEATURE_VIEW, "deployment": self._settings.serving.engine},
            extras={PREDICTIONS_FILE: evaluated / PREDICTIONS_FILE},
        )
        return patiently(lambda: self._folders.publish(release), self._stopping.wait)

    def _gate(self, task: str, params: dict[str, Any], evaluated: Path) -> GateDecision:
        with self._database.transaction(read_only=True) as tx:
            champion = tx.rollouts.champion(task)
        before = None
        if champion is not None:
            lines = read_part(self._settings.layout.dataset(task), "holdout")
            with patiently(lambda: self._folders.hold(champion), self._stopping.wait) as folder:
                before = champion_answers(self._settings, task, folder, lines)
        challenger = read_predictions(evaluated / PREDICTIONS_FILE)
        return gate(before, challenger, GateSettings(**params["gate"]))

    def _audited_error(self, task: str, dataset: DatasetVersioned) -> float | None:
        """The error that random audits found among what releases so far would label by themselves.

        None without automatic labels, or while no release has a certified threshold.
        """
        if not dataset.auto_labels:
            return None
        settings = self._settings.task(task).triage
        with self._database.transaction(read_only=True) as tx:
            releases = [row.release for row in tx.releases.history(task)]
            return audited_error(tx.audits, task, releases, settings)
