"""Wires the gateway: splits in, answers out, traffic captured."""

from __future__ import annotations

import gc
import threading

from flywheel.contracts.addresses import own_names
from flywheel.contracts.events import Event, RolloutChanged
from flywheel.errors import WorkspaceError
from flywheel.gateway.app import create_app
from flywheel.gateway.auth import Keys
from flywheel.gateway.capture import Capture
from flywheel.gateway.forward import ModelServers
from flywheel.gateway.left_spills import LeftSpills
from flywheel.gateway.limits import SourceLimits
from flywheel.gateway.spill import SpillLog
from flywheel.gateway.splits import Splits
from flywheel.monitoring.connections import ConnectionLimits
from flywheel.monitoring.http_server import HttpServer
from flywheel.monitoring.threads import LastingThread
from flywheel.processes.answering import Answering
from flywheel.processes.instance import Instance, claim
from flywheel.processes.process import begin
from flywheel.rollout.servers import PolledServers
from flywheel.serving.client import probes
from flywheel.settings import FlywheelSettings
from storage.objects import open_artefacts
from streams.follower import Follower
from streams.lettering import lettering


def run_gateway(settings: FlywheelSettings) -> int:
    """Run until SIGTERM. Starts, and answers, also while Kafka cannot be reached."""
    begin("gateway", settings)
    gateway = settings.gateway
    instance, spill = _named(settings)
    splits = Splits(settings.layout.splits(instance.name), settings.layout.all_splits())

    def changed(event: Event) -> None:
        if isinstance(event, RolloutChanged):
            splits.update(event)

    follower = Follower(settings.kafka, ["flywheel.rollouts"], changed, instance.client_id)
    publisher = lettering(settings.kafka, "flywheel-gateway", instance.client_id)
    left = LeftSpills(settings.layout.spills, publisher)
    capture = Capture(spill, publisher, fsync=gateway.fsync)
    endpoints = settings.serving.endpoints
    answering = Answering(
        lambda: {
            task: split.champion for task in settings.tasks if (split := splits.current(task))
        },
        PolledServers(probes(endpoints, generate=False)),
    )
    limits = None
    if gateway.requests_per_second is not None:
        limits = SourceLimits(gateway.requests_per_second, gateway.burst)
    app = create_app(
        tasks={name: task.task_kind for name, task in settings.tasks.items()},
        splits=splits,
        servers=ModelServers(endpoints, gateway.timeout_seconds),
        capture=capture,
        keys=Keys(gateway.keys),
        # Whoever may ask may watch; where nobody needs a key to ask, watching may still need one.
        metrics_keys=(*settings.monitoring.metrics_keys, *gateway.keys),
        source_limits=limits,
        checks={"champions": answering.all_tasks},
        names=own_names(gateway.host, keys=bool(gateway.api_keys), allowed=gateway.allowed_hosts),
        keep_image=open_artefacts(settings).put_bytes,
    )
    server = HttpServer(
        app,
        gateway.host,
        gateway.port,
        setting="gateway.port",
        limits=ConnectionLimits(connections=gateway.max_connections),
    )
    follower.start()
    stopped = threading.Event()

    def await_log() -> None:
        while not stopped.is_set():
            if follower.caught_up(1.0):
                splits.mark_caught_up()
                return

    left.start()
    answering.start()
    waiting = LastingThread("await-splits", await_log)
    waiting.start()
    _calm_collector()
    try:
        return server.run()
    finally:
        stopped.set()
        left.stop()
        answering.stop()
        follower.stop()
        publisher.close()


def _named(settings: FlywheelSettings) -> tuple[Instance, SpillLog]:
    """A name that is free, with its spill log. Another gateway may be taking up what the one of
    that name left: then the next."""
    passed: list[Instance] = []
    while True:
        instance = claim(settings, "gateway")
        folder = settings.layout.spill(instance.name)
        try:
            spill = SpillLog(folder, fsync=settings.gateway.fsync != "never")
        except WorkspaceError:
            passed.append(instance)
            continue
        for other in passed:
            other.lock.release()
        return instance, spill


def _calm_collector() -> None:
    """Keep the collector's pauses out of the tail of the latencies.

    What start-up made lives as long as the process does, so no collection need walk it again; and a
    request leaves few cycles behind, so that one in ten thousand new objects is often enough.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 50)
