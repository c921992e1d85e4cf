"""Wires the trainer: settled labels in, dataset versions and releases out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import structlog

from flywheel.contracts.file_locks import FileLock
from flywheel.contracts.ids import utc_now
from flywheel.contracts.leases import OUTBOX, Lease, duty, presence
from flywheel.contracts.publishing import Publisher
from flywheel.errors import FlywheelError, LeaseLost
from flywheel.monitoring.health import HealthServer
from flywheel.processes.instance import claim
from flywheel.processes.keeping import Pruning
from flywheel.processes.leasing import Leases
from flywheel.processes.process import begin, loop, stop_signal
from flywheel.registry.release_folder import sweep
from flywheel.retraining.ports import Importer, Pipeline
from flywheel.retraining.run_pipeline import make_turn
from flywheel.retraining.trigger import Facts, Start, decide, idle_for
from flywheel.settings import FlywheelSettings
from flywheel.turn.artefacts import put_missing
from flywheel.turn.bases import check_bases
from flywheel.turn.contradictions import check_running
from flywheel.turn.importer import WorkspaceImporter
from flywheel.turn.pipeline import WorkspacePipeline
from flywheel.turn.staging import waits_here
from storage.database import Database, Transaction
from storage.workspace import open_database
from streams.lettering import lettering
from streams.relay import OutboxRelay
from streams.topics import await_broker

OWNER = "trainer"
WATCH_SECONDS = 1.0
FAILED_SECONDS = 10.0
# How long an import waits for a trainer that has what it brings in.
IMPORT_PATIENCE = timedelta(minutes=1)

_log = structlog.get_logger(__name__)


def run_trainer(settings: FlywheelSettings) -> int:
    """Run until SIGTERM. A turn that a crash or a stop interrupts is resumed at the next start, or
    by another trainer."""
    begin("trainer", settings)
    instance = claim(settings, OWNER)
    check_bases(settings)
    stopping = stop_signal()
    await_broker(settings.kafka)
    with open_database(settings) as database:
        check_running(settings, database)
        publisher = lettering(settings.kafka, "flywheel-trainer", instance.client_id)
        leases = Leases(database, OWNER, instance.holder, lost=_end_turn)
        trainer = Trainer(settings, database, stopping, leases)
        health = HealthServer(
            settings.monitoring.host,
            settings.monitoring.trainer_port,
            {"tasks": trainer.problem},
            settings.monitoring.metrics_keys,
        )
        health.start()
        leases.start()
        try:
            put_missing(settings, database, OWNER)
            with trainer.relayed(publisher):
                loop(stopping, WATCH_SECONDS, trainer.step)
        finally:
            leases.stop()
            publisher.close()
            health.stop()
    return 0


def _end_turn(name: str) -> None:
    """What a turn runs, DVC and its stages, ends with the process."""
    if name != duty(OWNER, OUTBOX):
        _log.critical("another trainer makes this task's turns; ending", lease=name)
        os._exit(75)


class Trainer:
    """Looks at the tasks and makes the turns that are due, one at a time; others make those of
    other tasks meanwhile."""

    def __init__(
        self,
        settings: FlywheelSettings,
        database: Database,
        stopping: threading.Event,
        leases: Leases,
    ) -> None:
        self._settings = settings
        self._database = database
        self._stopping = stopping
        self._leases = leases
        self._pipeline: Pipeline | None = None
        self._importer: Importer | None = None
        self._pruning = Pruning(settings, database)
        self._seen: dict[str, tuple[frozenset[str], float]] = {}
        self._problems: dict[str, str] = {}

    @contextmanager
    def relayed(self, publisher: Publisher) -> Iterator[None]:
        """Publish what the transactions of trainers add to the outbox, while nobody else does."""
        relay = OutboxRelay(self._database.outbox_rows(OWNER), publisher, 0.5, self._leases.relays)
        relay.start()
        try:
            yield
        finally:
            relay.stop()

    def step(self) -> None:
        """Make the turn of each task that is due for one. Raises StorageError when the database
        cannot be reached."""
        with self._database.transaction(read_only=True) as tx:
            stirred = tx.turns.stirred(self._settings.tasks)
            live = {lease.name: lease.holder for lease in tx.leases.live(OWNER)}
        for task, marks in stirred.items():
            if duty(OWNER, task) in live:
                continue
            try:
                self._look(task, marks, live)
                self._problems.pop(task, None)
            except FlywheelError as error:
                self._later(task, marks, str(error))
            except Exception as error:  # noqa: BLE001 - one task's surprise must not stop the others
                _log.exception("task failed on an error that nobody foresaw", task=task)
                self._later(task, marks, f"{type(error).__name__}: {error}")

    def problem(self) -> str | None:
        """Which tasks could not be looked at, and why; or None."""
        return "; ".join(f"{task}: {why}" for task, why in self._problems.items()) or None

    def _look(self, task: str, marks: frozenset[str], live: Mapping[str, str]) -> None:
        if self._pruning.due(task):
            self._alone(task, lambda _lease: self._pruning.step(task))
        known, until = self._seen.get(task, (None, 0.0))
        if marks == known and time.monotonic() < until:
            return
        facts, start = self._due(task)
        if start is None:
            idle = idle_for(facts, self._settings.tasks[task].retraining, utc_now())
            self._seen[task] = (marks, time.monotonic() + idle.total_seconds())
        elif self._can(start, live):
            self._seen.pop(task, None)
            self._alone(task, lambda lease: self._make(task, lease))

    def _later(self, task: str, marks: frozenset[str], why: str) -> None:
        _log.warning("task not looked at, will try again", task=task, why=why)
        self._problems[task] = why
        self._seen[task] = (marks, time.monotonic() + FAILED_SECONDS)

    def _due(self, task: str) -> tuple[Facts, Start | None]:
        # Counting labels takes a while where there are many, and must hold nobody up.
        with self._database.transaction(read_only=True) as tx:
            facts = gather(tx, task)
        return facts, decide(facts, self._settings.tasks[task].retraining, utc_now())

    def _can(self, start: Start, live: Mapping[str, str]) -> bool:
        """Whether this trainer is the one to make a turn: an import may wait where another runs."""
        request = start.request
        if request is None or not request.imports or waits_here(self._settings, request):
            return True
        trainers = {holder for name, holder in live.items() if name.startswith(presence(OWNER))}
        turns = {holder for name, holder in live.items() if name.startswith(duty(OWNER, ""))}
        waited = utc_now() - request.at > IMPORT_PATIENCE
        # When each of them has had time for it, one has to say that it is gone.
        return len(trainers) < 2 or (waited and not trainers & turns)

    def _alone(self, task: str, work: Callable[[Lease], None]) -> None:
        """Do something of a task that one trainer does at a time, and one in this workspace."""
        workspace = FileLock.take(self._settings.layout.pipeline_lock)
        if workspace is None:
            _log.info("another trainer is at work in this workspace", task=task)
            return
        try:
            lease = self._leases.acquire(task)
            if lease is None:
                return
            try:
                work(lease)
            except LeaseLost as error:
                _log.error("the turn is another trainer's now", task=task, why=str(error))
            finally:
                self._leases.release(lease)
        finally:
            workspace.release()

    def _make(self, task: str, lease: Lease) -> None:
        # Somebody may have made the turn between the look and the lease.
        _, start = self._due(task)
        if start is None:
            return
        # Of a trainer that was killed; whoever makes turns in this workspace may remove it.
        sweep(self._settings.layout.releases, task)
        pipeline, importer = self._tools()
        make_turn(
            task,
            start,
            pipeline,
            importer,
            lambda: self._database.transaction(OWNER, lease=lease),
        )

    def _tools(self) -> tuple[Pipeline, Importer]:
        # Making them mends what a killed turn left in the workspace: not while another makes one.
        if self._pipeline is None:
            self._pipeline = WorkspacePipeline(self._settings, self._database, self._stopping)
        if self._importer is None:
            self._importer = WorkspaceImporter(self._settings, self._database)
        return self._pipeline, self._importer


def gather(tx: Transaction, task: str) -> Facts:
    """What the decision whether to turn needs to know of a task."""
    dataset = tx.datasets.latest(task)
    turns = tx.turns.history(task, 1)
    return Facts(
        new=tx.labels.counts(task, dataset.watermark if dataset else None),
        last_dataset_at=dataset.occurred_at if dataset else None,
        latest=turns[0] if turns else None,
        request=tx.turns.take_request(task, turns[0].turn_id if turns else ""),
        watermark=tx.labels.watermark(task),
        rollout_running=tx.rollouts.active(task) is not None,
    )
