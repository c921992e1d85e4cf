"""A rollout controller without Kafka or model servers, and the relay beside it. Run as a process.

Every release answers everywhere; what is published is appended, one line an event, to a file.
"""

from __future__ import annotations

import base64
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from flywheel.contracts.codec import Record
from flywheel.contracts.events import Event
from flywheel.processes.controller import OWNER, ROUND_SECONDS, Controller
from flywheel.processes.instance import claim
from flywheel.processes.leasing import Leases
from flywheel.processes.process import loop
from flywheel.rollout.decide import Readiness
from flywheel.settings import load_settings
from storage.database import Database
from streams.relay import OutboxRelay


class Ready:
    def ready(self, release: str) -> Readiness:
        return Readiness(ready=1, total=1)

    def loaded(self, releases: Sequence[str]) -> dict[str, Readiness]:
        return {release: self.ready(release) for release in releases}


class FileLog:
    """A topic of one partition: a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def publish(self, events: Sequence[Event]) -> None:
        raise NotImplementedError

    def publish_records(self, records: Sequence[Record]) -> None:
        for record in records:
            headers = dict(record.headers)
            parts = [record.value, *(part for pair in headers.items() for part in pair)]
            fields = [part if isinstance(part, bytes) else part.encode() for part in parts]
            line = b" ".join(base64.b64encode(field) for field in fields) + b"\n"
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(fd, line)
            os.close(fd)

    def close(self) -> None:
        return


def main(workspace: str, url: str, log: str) -> None:
    settings = load_settings(Path(workspace), {"FLYWHEEL_DATABASE_URL": url})
    instance = claim(settings, OWNER)
    database = Database(url)
    leases = Leases(database, OWNER, instance.holder, tasks=settings.tasks)
    relay = OutboxRelay(database.outbox_rows(OWNER), FileLog(Path(log)), 0.05, leases.relays)
    controller = Controller(settings, database, leases, Ready(), relay.wake)
    leases.start()
    relay.start()
    sys.stdout.write(f"{instance.holder}\n")
    sys.stdout.flush()
    loop(threading.Event(), ROUND_SECONDS, controller.step)


if __name__ == "__main__":
    main(*sys.argv[1:])
