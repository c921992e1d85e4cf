"""Wires the rollout controller: releases in, rollouts decided, traffic splits out."""

from __future__ import annotations

from flywheel.contracts.events import Event, ReleaseRegistered
from flywheel.contracts.ids import utc_now
from flywheel.monitoring.health import HealthServer
from flywheel.processes.answering import Answering
from flywheel.processes.gauges import DatabaseGauges, Upkeep
from flywheel.processes.keeping import RowRetention
from flywheel.processes.process import begin, loop, stop_signal
from flywheel.rollout.control import Latest, announce, on_release_registered, tick
from flywheel.rollout.servers import PolledServers
from flywheel.serving.client import probes
from flywheel.settings import FlywheelSettings
from flywheel.turn.contradictions import check_running
from storage.workspace import champions, open_database
from streams.follower import Follower
from streams.lettering import lettering
from streams.relay import OutboxRelay
from streams.topics import await_broker

TICK_SECONDS = 0.5
OWNER = "controller"


def run_controller(settings: FlywheelSettings) -> int:
    """Run until SIGTERM."""
    begin("controller", settings)
    stopping = stop_signal()
    await_broker(settings.kafka)
    with open_database(settings) as database:
        check_running(settings, database)

        def transactions():  # type: ignore[no-untyped-def]
            return database.transaction(OWNER)

        def reading():  # type: ignore[no-untyped-def]
            return database.transaction(read_only=True)

        def registered(event: Event) -> None:
            if isinstance(event, ReleaseRegistered):
                on_release_registered(transactions, event)

        publisher = lettering(settings.kafka, "flywheel-controller")
        relay = OutboxRelay(database.outbox_rows(OWNER), publisher, 0.5)
        releases = Follower(
            settings.kafka, ["flywheel.releases"], registered, "flywheel-controller"
        )
        servers = PolledServers(probes(settings.serving.endpoints))
        answering = Answering(
            lambda: champions(database, settings),
            PolledServers(probes(settings.serving.endpoints, generate=False)),
        )
        latest: Latest = {}
        retention = RowRetention(settings, database)
        gauges, upkeep = DatabaseGauges(database, settings.tasks), Upkeep(database)

        def step() -> None:
            for task, of_task in settings.tasks.items():
                plan = of_task.rollout
                made = tick(transactions, reading, task, plan, servers, utc_now(), latest)
                if made is not None:
                    relay.wake()
            gauges.refresh()
            upkeep.refresh()

        health = HealthServer(
            settings.monitoring.host,
            settings.monitoring.controller_port,
            {
                "releases": lambda: None if releases.caught_up(0) else "still reading releases",
                "champions": answering.every,
            },
            settings.monitoring.metrics_keys,
        )
        health.start()
        # A broker that was emptied gets the splits back; everyone else meets what they know.
        for task, of_task in settings.tasks.items():
            announce(transactions, task, of_task.rollout, utc_now())
        relay.start()
        releases.start()
        answering.start()
        retention.start()
        try:
            loop(stopping, TICK_SECONDS, step)
        finally:
            retention.stop()
            answering.stop()
            releases.stop()
            relay.stop()
            publisher.close()
            health.stop()
    return 0
