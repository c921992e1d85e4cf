"""Wires the rollout controller: releases in, rollouts decided, traffic splits out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import structlog

from flywheel.contracts.events import Event, ReleaseRegistered, RolloutChanged
from flywheel.contracts.ids import utc_now
from flywheel.contracts.leases import Lease
from flywheel.errors import LeaseLost
from flywheel.monitoring.health import HealthServer
from flywheel.processes.answering import Answering
from flywheel.processes.gauges import DatabaseGauges, Upkeep
from flywheel.processes.instance import claim
from flywheel.processes.keeping import RowRetention
from flywheel.processes.leasing import Leases
from flywheel.processes.process import begin, loop, stop_signal
from flywheel.processes.task_jobs import TaskJobs
from flywheel.rollout.control import Latest, announce, on_release_registered, tick
from flywheel.rollout.ports import RolloutTransaction
from flywheel.rollout.servers import ModelServers, PolledServers
from flywheel.serving.client import probes
from flywheel.settings import FlywheelSettings
from flywheel.turn.contradictions import check_running
from storage.changes import Version
from storage.database import Database
from storage.workspace import champions, open_database
from streams.follower import Follower
from streams.lettering import lettering
from streams.relay import OutboxRelay
from streams.topics import await_broker

# How often it is asked which tasks there is something to do of, and how often each of those is
# looked at; a person's command does not wait for the latter.
ROUND_SECONDS, TICK_SECONDS = 0.3, 0.5
OWNER = "controller"

_log = structlog.get_logger(__name__)


class Controller:
    """Carries the rollouts of those tasks on whose lease this process holds, each in a job of its
    own: a model server that hangs, a large rollout or an error of one delays none of the others."""

    def __init__(
        self,
        settings: FlywheelSettings,
        database: Database,
        leases: Leases,
        servers: ModelServers,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._database, self._leases = settings, database, leases
        self._servers, self._changed = servers, changed
        # A command has a job beside its task's.
        self._jobs = TaskJobs("task", 2 * len(settings.tasks))
        self._latest: Latest = {}
        self._announced: dict[str, int] = {}
        self._looked_at: dict[str, float] = {}
        # What there is to do of which task, and at which version of the database.
        self._due: Mapping[str, bool] = {}
        self._read_at: Version | None = None

    def step(self) -> None:
        """Begin what is due. Raises StorageError when the database cannot be reached."""
        version = self._database.version()
        if version is None or version != self._read_at:
            with self._reading() as tx:
                self._due = tx.rollouts.due()
            self._read_at = version
        due, now = self._due, time.monotonic()
        for task in self._settings.tasks:
            lease = self._leases.held(task)
            if lease is None:
                continue
            new = self._announced.get(task) != lease.token
            asked, waits = due.get(task, False), now - self._looked_at.get(task, 0.0) < TICK_SECONDS
            if not new and (task not in due or (waits and not asked)):
                continue
            if self._jobs.begin(task, partial(self._look, task, lease)):
                self._looked_at[task] = now
            elif asked:
                # It is waiting for a server, or after an error: a person is not to wait with it.
                self._jobs.begin(f"command of {task}", partial(self._hurry, task, lease))

    def announce_again(self, event: Event) -> None:
        """A split that came a second time may be an old one, behind the present one: whoever holds
        the task's lease says the present one once more."""
        if isinstance(event, RolloutChanged):
            _log.warning("a split came twice, saying the present one again", task=event.task)
            self._announced.pop(event.task, None)

    def problem(self) -> str | None:
        """Which tasks fail again and again, and why; or None."""
        return self._jobs.problem()

    def stop(self) -> None:
        """Wait for what was begun."""
        self._jobs.stop()

    def _look(self, task: str, lease: Lease) -> None:
        plan = self._settings.tasks[task].rollout
        try:
            if self._announced.get(task) != lease.token:
                # What was known of it is from before another held it. And a broker that was emptied
                # gets the split back; everyone else meets what they know.
                self._latest.pop(task, None)
                announce(self._writing(lease), task, plan, utc_now())
                self._announced[task] = lease.token
                self._changed()
            self._tick(task, lease)
        except LeaseLost as error:
            _log.warning("another controller has taken the task over", task=task, why=str(error))

    def _hurry(self, task: str, lease: Lease) -> None:
        self._tick(task, lease, hurried=True)

    def _tick(self, task: str, lease: Lease, *, hurried: bool = False) -> None:
        made = tick(
            self._writing(lease),
            self._reading,
            task,
            self._settings.tasks[task].rollout,
            self._servers,
            utc_now(),
            self._latest,
            hurried=hurried,
        )
        if made is not None:
            self._changed()

    def _reading(self) -> AbstractContextManager[RolloutTransaction]:
        return self._database.transaction(read_only=True)

    def _writing(self, lease: Lease) -> Callable[[], AbstractContextManager[RolloutTransaction]]:
        return lambda: self._database.transaction(OWNER, lease=lease)


def run_controller(settings: FlywheelSettings) -> int:
    """Run until SIGTERM."""
    begin("controller", settings)
    instance = claim(settings, OWNER)
    stopping = stop_signal()
    await_broker(settings.kafka)
    with open_database(settings) as database:
        check_running(settings, database)
        publisher = lettering(settings.kafka, "flywheel-controller", instance.client_id)
        leases = Leases(database, OWNER, instance.holder, tasks=settings.tasks)
        relay = OutboxRelay(database.outbox_rows(OWNER), publisher, 0.3, leases.relays)
        servers = PolledServers(probes(settings.serving.endpoints))
        controller = Controller(settings, database, leases, servers, relay.wake)

        def followed(event: Event) -> None:
            # Remembering a release again changes nothing: each controller does, whoever's task.
            if isinstance(event, ReleaseRegistered):
                on_release_registered(lambda: database.transaction(OWNER), event)

        releases = Follower(
            settings.kafka,
            ["flywheel.releases", "flywheel.rollouts"],
            followed,
            instance.client_id,
            controller.announce_again,
        )
        answering = Answering(
            lambda: champions(database, settings),
            PolledServers(probes(settings.serving.endpoints, generate=False)),
        )
        retention = RowRetention(settings, database, leases.relays)
        gauges = DatabaseGauges(database, settings.tasks, carries=leases.held)
        upkeep = Upkeep(database)

        def step() -> None:
            controller.step()
            gauges.refresh()
            upkeep.refresh()

        health = HealthServer(
            settings.monitoring.host,
            settings.monitoring.controller_port,
            {
                "releases": lambda: None if releases.caught_up(0) else "still reading releases",
                "champions": answering.every,
                "tasks": controller.problem,
            },
            settings.monitoring.metrics_keys,
        )
        health.start()
        leases.start()
        relay.start()
        releases.start()
        answering.start()
        retention.start()
        try:
            loop(stopping, ROUND_SECONDS, step)
        finally:
            controller.stop()
            retention.stop()
            answering.stop()
            releases.stop()
            relay.stop()
            leases.stop()
            publisher.close()
            health.stop()
    return 0
