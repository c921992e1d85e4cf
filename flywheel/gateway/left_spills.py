"""What gateways that are gone had captured and not published: taken up by one that runs."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import structlog
from prometheus_client import Counter

from flywheel.contracts.publishing import Publisher
from flywheel.errors import FlywheelError, WorkspaceError
from flywheel.gateway.spill import SpillLog
from flywheel.monitoring.threads import LastingThread

LOOK_SECONDS = 5.0

_log = structlog.get_logger(__name__)
_taken_up = Counter(
    "flywheel_gateway_taken_up_total", "Events published that a gateway which is gone had captured."
)


class LeftSpills:
    """Publishes every spill log in ``folder`` that no process holds, and deletes it then. A record
    that its gateway had published as well keeps its id, by which readers tell doubles."""

    def __init__(self, folder: Path, publisher: Publisher) -> None:
        self._folder, self._publisher = folder, publisher
        self._stopping = threading.Event()
        self._thread = LastingThread("left-spills", self._run)

    def start(self) -> None:
        """Look for them from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(5.0)

    def take_up(self) -> int:
        """Publish what lies there now; how many records. Raises BrokerError while Kafka is away:
        what is not published stays where it is."""
        taken = 0
        for folder in sorted(self._folder.glob("*/")):
            if self._stopping.is_set():
                break
            taken += self._one(folder)
        return taken

    def _one(self, folder: Path) -> int:
        try:
            spill = SpillLog(folder)
        except WorkspaceError:
            return 0  # its gateway lives
        published = 0
        try:
            while not self._stopping.is_set():
                batch, after = spill.read()
                if batch:
                    self._publisher.publish_records(batch)
                    published += len(batch)
                    _taken_up.inc(len(batch))
                spill.advance(after)
                if not batch:
                    # The lock goes with it: who wanted this name meanwhile makes a folder anew.
                    shutil.rmtree(folder)
                    break
        finally:
            spill.close()
            if published:
                _log.info("took up what a gateway left", spill=folder.name, records=published)
        return published

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.take_up()
            except (FlywheelError, OSError) as error:
                _log.warning("what other gateways left waits", reason=str(error))
            self._stopping.wait(LOOK_SECONDS)
