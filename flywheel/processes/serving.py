"""Wires one model server that follows the splits: loads what they name, answers."""

from __future__ import annotations

import threading

from flywheel.contracts.addresses import own_names
from flywheel.contracts.events import Event, RolloutChanged
from flywheel.monitoring.http_server import HttpServer
from flywheel.monitoring.threads import LastingThread
from flywheel.processes.engines import open_engine
from flywheel.processes.fetched import FetchedReleases
from flywheel.processes.instance import claim
from flywheel.processes.process import begin
from flywheel.serving.app import create_app
from flywheel.serving.releases import ReleaseSet
from flywheel.serving.room import Room
from flywheel.settings import FlywheelSettings
from storage.objects import open_artefacts
from streams.follower import Follower


def run_model_server(settings: FlywheelSettings, port: int) -> int:
    """Run until SIGTERM, for every release that a traffic split names."""
    begin(f"model-{port}", settings)
    instance = claim(settings, "model")
    serving = settings.serving
    engine = open_engine(
        serving,
        cache=settings.layout.serving_cache(instance.name),
        bases=settings.layout.bases,
    )
    fetched = FetchedReleases(settings.layout, open_artefacts(settings), engine)
    releases = ReleaseSet(
        fetched.load,
        closed=fetched.closed,
        room=Room(serving.max_loaded, serving.max_loaded_bytes),
        size=fetched.size,
    )

    def changed(event: Event) -> None:
        if isinstance(event, RolloutChanged):
            fetched.update(event)
            releases.update(event)

    follower = Follower(settings.kafka, ["flywheel.rollouts"], changed, instance.client_id)
    app = create_app(
        releases=releases,
        max_batch=serving.max_batch,
        max_wait_ms=serving.max_wait_ms,
        queue_size=serving.queue_size,
        max_queue_seconds=serving.max_queue_seconds,
        load_seconds=serving.load_seconds,
        names=own_names(serving.host, keys=False),
        metrics_keys=settings.monitoring.metrics_keys,
        checks={
            "splits": lambda: None if follower.caught_up(0) else "still reading the rollout log"
        },
    )
    server = HttpServer(app, serving.host, port, setting="serving.ports")
    stopped = threading.Event()

    def begin_loading() -> None:
        # What the log named before its end is history: nothing of it is to be loaded.
        while not stopped.is_set():
            if follower.caught_up(1.0):
                releases.start()
                return

    follower.start()
    waiting = LastingThread("await-splits", begin_loading)
    waiting.start()
    try:
        return server.run()
    finally:
        stopped.set()
        follower.stop()
        engine.close()
        releases.stop()
