"""Wires one model server: follows the splits, or serves one folder; loads, answers."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flywheel.bootstrap.process import begin
from flywheel.contracts.events import Event, RolloutChanged
from flywheel.contracts.model_folder import RELEASE_FILE, digest, read_description
from flywheel.errors import ArtefactError, Unavailable
from flywheel.monitoring.http_server import HttpServer
from flywheel.monitoring.logs import configure_logging
from flywheel.serving.app import create_app
from flywheel.serving.engine import Classifier, Generator, Loader
from flywheel.serving.releases import ReleaseSet
from flywheel.settings import FlywheelSettings, ServingSettings
from streams.follower import Follower

EngineName = Literal["embedded", "vllm"]


def release_path(settings: FlywheelSettings, release: str) -> Path:
    """Where a release's folder lies."""
    return settings.state / "releases" / release


@dataclass(frozen=True, slots=True)
class Engine:
    """Loads release folders; ``close`` gives up a load under way."""

    load: Callable[[str, Path], Classifier | Generator]
    close: Callable[[], None]


def open_engine(serving: ServingSettings, *, cache: Path, bases: Path) -> Engine:
    """The engine that the settings name. ``cache`` is this process' alone."""
    if serving.engine == "vllm":
        from flywheel.serving.vllm.engine import VllmEngine

        vllm = VllmEngine(serving.vllm, cache=cache, bases=bases)
        return Engine(vllm.load, vllm.close)
    return Engine(lambda _release, folder: _load_embedded(folder, serving.threads), lambda: None)


def _load_embedded(folder: Path, threads: int) -> Classifier:
    from flywheel.serving.runtime import load_classifier

    if read_description(folder).kind == "llm":
        raise ArtefactError(
            f"{folder} is a language model, which the embedded engine does not run: "
            'set serving.engine = "vllm"'
        )
    return load_classifier(folder, threads)


def run_model_server(settings: FlywheelSettings, port: int) -> int:
    """Run until SIGTERM, for every release that a traffic split names."""
    begin(f"model-{port}", settings)
    serving = settings.serving
    engine = open_engine(
        serving,
        cache=settings.state / "serving" / str(port),
        bases=settings.state / "bases",
    )
    releases = ReleaseSet(lambda release: engine.load(release, release_path(settings, release)))

    def changed(event: Event) -> None:
        if isinstance(event, RolloutChanged):
            releases.update(event)

    follower = Follower(settings.kafka, ["flywheel.rollouts"], changed, f"flywheel-model-{port}")
    app = create_app(
        releases=releases,
        max_batch=serving.max_batch,
        max_wait_ms=serving.max_wait_ms,
        queue_size=serving.queue_size,
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
    threading.Thread(target=begin_loading, name="await-splits", daemon=True).start()
    try:
        return server.run()
    finally:
        stopped.set()
        follower.stop()
        engine.close()
        releases.stop()


def run_folder_server(
    serving: ServingSettings, folder: Path, name: str, port: int, bases: Path, log_level: str
) -> int:
    """Serve one model folder under ``name`` until SIGTERM, without Kafka or a workspace.

    Prints one line of JSON once it answers: its address, process id and model. Raises what loading
    raises when the model cannot be served at all.
    """
    configure_logging(f"serve-{name}", log_level)
    with tempfile.TemporaryDirectory(prefix="flywheel-serve-") as cache:
        engine = open_engine(serving, cache=Path(cache), bases=bases)
        first = _First(lambda _release: engine.load(name, folder))
        releases = ReleaseSet(first.load)
        releases.keep(name)
        app = create_app(
            releases=releases,
            max_batch=serving.max_batch,
            max_wait_ms=serving.max_wait_ms,
            queue_size=serving.queue_size,
        )
        server = HttpServer(app, serving.host, port, setting="--port")
        ready = {
            "url": f"http://{serving.host}:{server.port}",
            "pid": os.getpid(),
            "model": name,
        }
        releases.start()
        threading.Thread(
            target=_announce, args=(releases, server, first, ready), daemon=True
        ).start()
        try:
            code = server.run()
        finally:
            engine.close()
            releases.stop()
        if first.error is not None:
            raise first.error
        return code


class _First:
    """A loader that keeps why the first load failed: nothing was ever served then."""

    def __init__(self, load: Loader) -> None:
        self._load = load
        self._tried = False
        self.error: Exception | None = None

    def load(self, release: str) -> Classifier | Generator:
        try:
            return self._load(release)
        except Exception as error:
            if not self._tried:
                self.error = error
            raise
        finally:
            self._tried = True


def _announce(
    releases: ReleaseSet, server: HttpServer, first: _First, ready: dict[str, object]
) -> None:
    pause = threading.Event()
    while not server.started or (status := releases.statuses()[0]).state == "loading":
        pause.wait(0.02)
    if status.state == "failed":
        first.error = first.error or Unavailable(status.reason)
        server.stop()
        return
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()


def folder_name(folder: Path) -> str:
    """The name under which a folder is served unless one is given: its own, and what it holds."""
    return f"{folder.resolve().name}-{digest(folder / RELEASE_FILE).sha256[:8]}"
