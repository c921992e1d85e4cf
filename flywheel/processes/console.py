"""Wires the console: pages and APIs over the database, its outbox relayed to Kafka."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from flywheel.console.app import create_app
from flywheel.monitoring.connections import ConnectionLimits
from flywheel.monitoring.http_server import HttpServer
from flywheel.processes.answering import Answering
from flywheel.processes.broker_watch import BrokerWatch
from flywheel.processes.instance import claim
from flywheel.processes.leasing import Leases
from flywheel.processes.process import begin
from flywheel.rollout.servers import PolledServers
from flywheel.serving.client import probes
from flywheel.settings import FlywheelSettings
from storage.objects import open_artefacts
from storage.workspace import champions, open_database
from streams.lettering import lettering
from streams.relay import OutboxRelay

OWNER = "console"


def assets_folder() -> Path:
    """Where the packages that carry the console's scripts are installed."""
    return Path(sysconfig.get_paths()["purelib"])


def run_console(settings: FlywheelSettings) -> int:
    """Run until SIGTERM. An answer is in the database, its events beside it, when it returns.

    Starts, and takes answers, also while Kafka cannot be reached: their events wait in the outbox.
    """
    begin("console", settings)
    instance = claim(settings, OWNER)
    with open_database(settings) as database:
        publisher = lettering(settings.kafka, "flywheel-console", instance.client_id)
        leases = Leases(database, OWNER, instance.holder)
        relay = OutboxRelay(database.outbox_rows(OWNER), publisher, 0.2, leases.relays)
        broker = BrokerWatch(settings.kafka, relay.start)
        answering = Answering(
            lambda: champions(database, settings),
            PolledServers(probes(settings.serving.endpoints, generate=False)),
        )
        app = create_app(
            settings,
            lambda: database.transaction(OWNER),
            assets_folder(),
            artefacts=open_artefacts(settings),
            reading=lambda: database.transaction(read_only=True),
            checks={"kafka": broker.problem},
            unanswered=answering.unanswered,
        )
        server = HttpServer(
            app,
            settings.console.host,
            settings.console.port,
            setting="console.port",
            behind_proxy=True,
            limits=ConnectionLimits(connections=settings.console.max_connections),
        )
        leases.start()
        broker.start()
        answering.start()
        try:
            return server.run()
        finally:
            answering.stop()
            broker.stop()
            relay.stop()
            leases.stop()
            publisher.close()
