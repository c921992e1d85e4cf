"""The broker as a process sees it that starts and answers without one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from flywheel.errors import FlywheelError
from flywheel.monitoring.threads import LastingThread
from flywheel.settings import KafkaSettings
from streams.connection import require_listener
from streams.topics import ensure_topics

_LONGEST_PAUSE = 5.0

_log = structlog.get_logger(__name__)


class BrokerWatch:
    """Makes the topics, from a thread, once the broker is there, and calls ``arrived`` then."""

    def __init__(self, kafka: KafkaSettings, arrived: Callable[[], None]) -> None:
        self._kafka = kafka
        self._arrived = arrived
        self._stopping = threading.Event()
        self._waiting_for: str | None = "the broker has not been asked yet"
        self._thread = LastingThread("await-broker", self._wait)

    def start(self) -> None:
        """Look for the broker from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(5.0)

    def problem(self) -> str | None:
        """Why events have to wait, or None while the broker takes connections."""
        if self._waiting_for is not None:
            return self._waiting_for
        try:
            require_listener(self._kafka)
        except FlywheelError as error:
            return str(error)
        return None

    def _wait(self) -> None:
        pause = 0.25
        while not self._stopping.is_set():
            try:
                ensure_topics(self._kafka)
            except FlywheelError as error:
                if self._waiting_for != str(error):
                    _log.warning("no broker yet, trying again", reason=str(error))
                self._waiting_for = str(error)
            else:
                self._waiting_for = None
                self._arrived()
                return
            self._stopping.wait(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
