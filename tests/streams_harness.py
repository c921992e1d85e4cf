"""What tests of the streams part share: events to send, and a worker in a process of its own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kafka_fixture import end_with_parent

from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "faults" / "streams_worker.py"


def traffic(
    count: int, content: str = "a question", task: str = "streams-test"
) -> list[TrafficRecorded]:
    """Traffic events with ids of their own."""
    return [
        TrafficRecorded(
            event_id=new_id(), occurred_at=utc_now(), task=task, sample_id=new_id(), content=content
        )
        for _ in range(count)
    ]


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for what must come; how soon is not what is tested."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {seconds:.0f} s: {condition}")
        time.sleep(0.05)


class WorkerProcess:
    """tests/faults/streams_worker.py in a process."""

    def __init__(self, port: int, group: str, folder: Path) -> None:
        self.port, self.group = port, group
        self.database = folder / f"{group}.db"
        self.log = folder / f"{group}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(self.port), self.group, str(self.database)],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=ROOT,
            )
        end_with_parent(self._process.pid)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", self.log.read_text()

    def end(self, sign: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        assert self._process is not None
        self._process.send_signal(sign)
        status = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return status

    def signal(self, sign: signal.Signals) -> None:
        """Send a signal that does not end it."""
        assert self._process is not None
        self._process.send_signal(sign)

    def wait(self) -> int:
        """Wait until it ends by itself; returns the exit status."""
        assert self._process is not None
        status = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return status

    def close(self) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)

    def effects(self) -> set[str]:
        """Event ids whose effect is stored."""
        return set(self._stored("select event_id from effect"))

    def batches(self) -> int:
        """How many batches were handled."""
        return len(self._stored("select events from delivery"))

    def _stored(self, query: str) -> list[str]:
        if not self.database.exists():
            return []
        db = sqlite3.connect(self.database, timeout=30)
        try:
            return [row[0] for row in db.execute(query)]
        except sqlite3.OperationalError:
            return []
        finally:
            db.close()
