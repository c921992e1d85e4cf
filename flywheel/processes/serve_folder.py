"""Wires a model server for one folder: no Kafka, no database, no workspace."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from pathlib import Path

from flywheel.contracts.addresses import own_names
from flywheel.contracts.model_folder import RELEASE_FILE, digest
from flywheel.errors import Unavailable
from flywheel.monitoring.http_server import HttpServer
from flywheel.monitoring.logs import configure_logging
from flywheel.monitoring.threads import LastingThread
from flywheel.processes.engines import open_engine
from flywheel.serving.app import create_app
from flywheel.serving.engine import Classifier, Generator, Loader
from flywheel.serving.releases import ReleaseSet
from flywheel.settings import ServingSettings


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
            max_queue_seconds=serving.max_queue_seconds,
            names=own_names(serving.host, keys=False),
        )
        server = HttpServer(app, serving.host, port, setting="--port")
        ready = {
            "url": f"http://{serving.host}:{server.port}",
            "pid": os.getpid(),
            "model": name,
        }
        releases.start()
        announcing = LastingThread("announce", lambda: _announce(releases, server, first, ready))
        announcing.start()
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
