"""Closes releases that are unloaded, each once nobody uses it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from flywheel.serving.held import Live

# How long requests under way may hold up the closing of what answers them.
DRAIN_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class Closing:
    """``idle`` is notified whenever a release is used no more; ``closed`` is told of every release
    that has been closed."""

    def __init__(self, idle: threading.Condition, closed: Callable[[str], None]) -> None:
        self._idle, self._closed = idle, closed
        self._threads: list[threading.Thread] = []

    def later(self, release: str, live: Live) -> None:
        """In a thread: it waits for requests under way, and for a process to end."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=self.now, args=(release, live), name="close-release")
        thread.start()
        self._threads.append(thread)

    def now(self, release: str, live: Live) -> None:
        """Returns once it is closed."""
        dead = live.served.problem() is not None
        with self._idle:
            self._idle.wait_for(lambda: dead or not live.in_use, DRAIN_SECONDS)
        try:
            live.served.close()
        except Exception:  # noqa: BLE001 - what is closed is gone, and the others are served on
            _log.exception("release not closed in good order", release=release)
        self._closed(release)

    def wait(self) -> None:
        """Until all are closed."""
        for thread in self._threads:
            thread.join()
