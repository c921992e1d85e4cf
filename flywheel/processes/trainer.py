"""Wires the trainer: settled labels in, dataset versions and releases out."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import structlog

from flywheel.contracts.ids import utc_now
from flywheel.errors import FlywheelError
from flywheel.monitoring.health import HealthServer
from flywheel.monitoring.threads import LastingThread
from flywheel.processes.keeping import Pruning
from flywheel.processes.process import begin, loop, stop_signal
from flywheel.registry.release_folder import sweep
from flywheel.retraining.ports import RetrainingTransaction
from flywheel.retraining.run_pipeline import make_turn
from flywheel.retraining.trigger import Facts, decide
from flywheel.settings import FlywheelSettings
from flywheel.turn.artefacts import put_missing
from flywheel.turn.bases import check_bases
from flywheel.turn.contradictions import check_running
from flywheel.turn.importer import WorkspaceImporter
from flywheel.turn.pipeline import WorkspacePipeline
from storage.database import Database, Transaction
from storage.workspace import open_database
from streams.lettering import lettering
from streams.relay import OutboxRelay
from streams.topics import await_broker

OWNER = "trainer"
WATCH_SECONDS = 1.0
LEASE_SECONDS = 15.0

_log = structlog.get_logger(__name__)


def run_trainer(settings: FlywheelSettings) -> int:
    """Run until SIGTERM. A turn that a crash or a stop interrupts is resumed at the next start."""
    begin("trainer", settings)
    check_bases(settings)
    stopping = stop_signal()
    await_broker(settings.kafka)
    with open_database(settings) as database:
        check_running(settings, database)
        trainer = Trainer(settings, database, stopping)
        health = HealthServer(
            settings.monitoring.host,
            settings.monitoring.trainer_port,
            {"loop": lambda: None},
            settings.monitoring.metrics_keys,
        )
        health.start()
        try:
            put_missing(settings, database, OWNER)
            with trainer.relayed():
                loop(stopping, WATCH_SECONDS, trainer.step)
        finally:
            health.stop()
    return 0


class Trainer:
    """Looks at every task each second and makes the turns that are due, one at a time."""

    def __init__(
        self, settings: FlywheelSettings, database: Database, stopping: threading.Event
    ) -> None:
        self._settings = settings
        self._database = database
        self._stopping = stopping
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._pipeline = WorkspacePipeline(settings, database, stopping)
        self._importer = WorkspaceImporter(settings, database)
        self._pruning = Pruning(settings, database)

    def transactions(self) -> AbstractContextManager[RetrainingTransaction]:
        """One transaction of the trainer."""
        return self._database.transaction(OWNER)

    @contextmanager
    def relayed(self) -> Iterator[None]:
        """Publish what the trainer's transactions add to the outbox."""
        publisher = lettering(self._settings.kafka, "flywheel-trainer")
        relay = OutboxRelay(self._database.outbox_rows(OWNER), publisher, 0.5)
        relay.start()
        try:
            yield
        finally:
            relay.stop()
            publisher.close()

    def step(self) -> None:
        """Make the turn of the first task that is due for one."""
        for task, of_task in self._settings.tasks.items():
            with self._database.transaction(OWNER) as tx:
                if not tx.turns.acquire(task, self._holder, utc_now(), LEASE_SECONDS):
                    continue
            # Counting labels takes a while where there are many, and must hold nobody up.
            with self._database.transaction(read_only=True) as tx:
                facts = gather(tx, task)
            start = decide(facts, of_task.retraining, utc_now())
            if start is None:
                if self._pruning.due(task):
                    with self._leased(task):
                        self._pruning.step(task)
                continue
            with self._leased(task):
                # Of a trainer that was killed; whoever holds the task's lease may remove it.
                sweep(self._settings.layout.releases, task)
                make_turn(task, start, self._pipeline, self._importer, self.transactions)

    @contextmanager
    def _leased(self, task: str) -> Iterator[None]:
        """Renew the lease while a turn is made; another trainer that took it ends this process."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(LEASE_SECONDS / 3):
                try:
                    with self._database.transaction(OWNER) as tx:
                        held = tx.turns.acquire(task, self._holder, utc_now(), LEASE_SECONDS)
                except FlywheelError as error:
                    _log.warning("lease not renewed", task=task, error=str(error))
                    continue
                if not held:
                    _log.critical("another trainer makes this task's turns; ending", task=task)
                    os._exit(75)

        thread = LastingThread("lease", renew)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


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
