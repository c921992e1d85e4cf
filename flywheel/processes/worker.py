"""Wires the Faust worker: four agents, each a consumer group, in one process."""

from __future__ import annotations

import threading

from flywheel.contracts.stores import AuditChanges
from flywheel.monitoring.health import HealthServer
from flywheel.processes.process import begin
from flywheel.settings import FlywheelSettings
from flywheel.triage.triager import Triager
from flywheel.turn.contradictions import check_running
from storage.database import Database
from storage.features.relay import FeatureRelay
from storage.workspace import open_database
from streams.agents import evidence, labels, review, triage
from streams.agents.acceptance import configured
from streams.boundary import run_worker
from streams.topics import await_broker


class AuditReader:
    """Audits of a release, each read in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        """What changed after ``after`` of the audits of a release."""
        with self._database.transaction(read_only=True) as tx:
            return tx.audits.changed(task, release, after)


def run_worker_process(settings: FlywheelSettings) -> int:
    """Run until SIGTERM; the exit code is the process'."""
    begin("worker", settings)
    await_broker(settings.kafka)
    ready = threading.Event()
    retired = {name: task.retired_labels for name, task in settings.tasks.items()}
    accept = configured({name: task.kept_answers for name, task in settings.tasks.items()})
    tasks = {name: (task.answers, task.triage) for name, task in settings.tasks.items()}
    with open_database(settings) as database, FeatureRelay(settings, database) as features:
        check_running(settings, database)
        with database.transaction() as tx:
            salt = tx.draws.triage()
        triager = Triager(tasks, AuditReader(database), features.online, salt=salt, retired=retired)
        agents = [
            triage.agent(triager, accept),
            review.agent(database, accept),
            labels.agent(database, features.record, accept),
            evidence.agent(database, accept),
        ]
        health = HealthServer(
            settings.monitoring.host,
            settings.monitoring.worker_port,
            {
                "agents": lambda: None if ready.is_set() else "agents are starting",
                "features": features.problem,
            },
            settings.monitoring.metrics_keys,
        )
        health.start()
        try:
            return run_worker(settings.kafka, agents, on_ready=ready.set)
        finally:
            health.stop()
