"""Wires the Faust worker: agents, each a consumer group, in one process or a few."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from flywheel.contracts.agents import AGENTS
from flywheel.contracts.stores import AuditChanges
from flywheel.monitoring.health import HealthServer
from flywheel.processes.features import FeatureProcess
from flywheel.processes.instance import claim
from flywheel.processes.process import begin
from flywheel.settings import FlywheelSettings
from flywheel.triage.recent_features import RecentFeatures
from flywheel.triage.triager import Triager, no_features
from flywheel.turn.contradictions import check_running
from storage.database import Database
from storage.workspace import open_database
from streams.agent_loop import Agent
from streams.agents import evidence, labels, review, triage
from streams.agents.acceptance import configured
from streams.boundary import run_worker
from streams.groups import committed_offsets
from streams.logs import topic_logs
from streams.topics import await_broker


class AuditReader:
    """Audits of a release, each read in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        """What changed after ``after`` of the audits of a release."""
        with self._database.transaction(read_only=True) as tx:
            return tx.audits.changed(task, release, after)


def run_worker_process(settings: FlywheelSettings, chosen: Sequence[str] = AGENTS) -> int:
    """Run these agents until SIGTERM; the exit code is the process'."""
    begin("worker", settings)
    claim(settings, "worker")
    await_broker(settings.kafka)
    ready = threading.Event()
    checks: dict[str, Callable[[], str | None]] = {
        name: lambda: None if ready.is_set() else "starting" for name in chosen
    }
    with ExitStack() as stack:
        database = stack.enter_context(open_database(settings))
        check_running(settings, database)
        features = None
        if "triage" in chosen:
            features = stack.enter_context(FeatureProcess(settings))
            checks["features"] = features.problem
        made = _agents(settings, database, features)
        agents = [made[name]() for name in chosen]
        _begin_positions(settings, database, [one for one in agents if one.note is not None])
        health = HealthServer(
            settings.monitoring.host,
            settings.monitoring.worker_port,
            checks,
            settings.monitoring.metrics_keys,
        )
        health.start()
        stack.callback(health.stop)
        # What starting up made stays for good: looking through it again cost a tenth of the work.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        return run_worker(settings.kafka, agents, on_ready=ready.set)


def _agents(
    settings: FlywheelSettings, database: Database, features: FeatureProcess | None
) -> Mapping[str, Callable[[], Agent]]:
    accept = configured({name: task.kept_answers for name, task in settings.tasks.items()})

    def triager() -> Triager:
        with database.transaction() as tx:
            salt = tx.draws.triage()
        return Triager(
            {name: (task.answers, task.triage) for name, task in settings.tasks.items()},
            AuditReader(database),
            no_features if features is None else RecentFeatures(features.online),
            salt=salt,
            retired={name: task.retired_labels for name, task in settings.tasks.items()},
        )

    return {
        "triage": lambda: triage.agent(triager(), accept),
        "review": lambda: review.agent(database, accept),
        "labels": lambda: labels.agent(database, accept),
        "evidence": lambda: evidence.agent(database, accept),
    }


def _begin_positions(
    settings: FlywheelSettings, database: Database, agents: Sequence[Agent]
) -> None:
    """Take over what an earlier version has handled, which kept no positions."""
    for agent in agents:
        with database.transaction(read_only=True) as tx:
            begun = tx.positions.begun(agent.group)
        if not begun:
            committed = committed_offsets(settings.kafka, agent.group)
            logs = topic_logs(settings.kafka, agent.topics)
            with database.transaction() as tx:
                tx.positions.begin(agent.group, committed, logs)
