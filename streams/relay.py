"""The outbox relay: sends what a database transaction left in its outbox, then marks it sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event as Signal
from typing import Protocol

import structlog

from flywheel.contracts.codec import Record
from flywheel.contracts.publishing import Publisher
from flywheel.errors import FlywheelError
from flywheel.monitoring.threads import LastingThread

_BATCH = 500
_LONGEST_PAUSE = 5.0

_log = structlog.get_logger(__name__)


class OutboxRows(Protocol):
    """One owner's rows of the outbox table; each method is a transaction of its own."""

    def unsent(self, limit: int) -> list[tuple[int, Record]]:
        """(row id, record) of rows not yet sent, oldest first."""
        ...

    def mark_sent(self, ids: Sequence[int]) -> None:
        """These were acknowledged."""
        ...


class OutboxRelay:
    """A thread that empties one outbox. Sent twice is possible (a crash before the mark), lost
    is not: readers tell doubles by event id.

    ``allowed`` says whether this process is the one that sends now. One at a time does, and oldest
    first, so that whatever is sent for the first time is sent in its order.
    """

    def __init__(
        self,
        pending: OutboxRows,
        publisher: Publisher,
        interval: float = 0.2,
        allowed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._pending = pending
        self._publisher = publisher
        self._interval = interval
        self._allowed = allowed
        self._awake = Signal()
        self._stopping = False
        self._thread = LastingThread("outbox-relay", self._run)

    def start(self) -> None:
        """Relay from now on."""
        self._thread.start()

    def wake(self) -> None:
        """Send what there is now, without waiting for the interval."""
        self._awake.set()

    def stop(self, timeout: float = 5.0) -> None:
        """Send what is there, if the broker answers in time, and end."""
        self._stopping = True
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def drain(self) -> int:
        """Send all that is pending now, in this thread, if it is this process that sends. Returns
        how many records."""
        sent = 0
        while self._allowed() and (rows := self._pending.unsent(_BATCH)):
            if not self._allowed():
                break  # reading took too long
            self._publisher.publish_records([record for _, record in rows])
            self._pending.mark_sent([row for row, _ in rows])
            sent += len(rows)
        return sent

    def _run(self) -> None:
        pause = self._interval
        while True:
            last_round = self._stopping
            try:
                self.drain()
                pause = self._interval
            except FlywheelError as error:
                _log.warning("outbox not sent, trying again", reason=str(error))
                pause = min(_LONGEST_PAUSE, pause * 2)
            except Exception:  # noqa: BLE001 - the thread's boundary
                # The thread must outlive a surprise: unsent rows are state that others wait for.
                _log.exception("outbox not sent, trying again")
                pause = _LONGEST_PAUSE
            if last_round:
                return
            self._awake.wait(pause)
            self._awake.clear()
