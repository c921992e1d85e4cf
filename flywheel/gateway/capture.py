"""No acknowledged request is lost: events go to the spill log first, and from there to Kafka."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable

import structlog
from prometheus_client import Counter, Gauge

from flywheel.contracts.codec import encode
from flywheel.contracts.events import Event
from flywheel.contracts.publishing import Publisher
from flywheel.errors import Unavailable
from flywheel.gateway.config import Fsync
from flywheel.gateway.spill import SpillLog
from flywheel.monitoring.threads import LastingThread

_log = structlog.get_logger(__name__)
_bytes = Gauge("flywheel_gateway_spill_bytes", "Captured bytes not yet acknowledged by Kafka.")
_lag = Gauge("flywheel_gateway_spill_lag_seconds", "Age of the oldest unpublished capture.")
_captured = Counter("flywheel_gateway_captured_total", "Events written to the spill log.")
_published = Counter("flywheel_gateway_published_total", "Events acknowledged by Kafka.")
_failures = Counter("flywheel_gateway_publish_failures_total", "Attempts that Kafka refused.")

LINGER_SECONDS = 0.02
FSYNC_SECONDS = 1.0
LONGEST_BACK_OFF_SECONDS = 5.0


class GroupCommit:
    """One call of ``sync`` for all who wait: in an event loop, each in a thread of its own."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Return after a sync that began after this call. Raises what it raises."""
        # One that is under way may have begun before what this caller wrote.
        if self._next is None:
            self._next = asyncio.create_task(self._round(self._running))
        # A caller that goes away must not take the others' sync along.
        await asyncio.shield(self._next)

    async def _round(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        await asyncio.to_thread(self._sync)


class Capture:
    """Appends events to ``spill`` and publishes them on a thread of its own.

    ``record`` keeps what a killed process had (the operating system has it); ``durable`` keeps
    what a machine that loses its power had, where ``fsync`` is "always". "interval" has the disk
    hold it within a second, and no one waits.

    While more than ``max_bytes`` wait for Kafka, ``ensure_room`` refuses. Requests already
    accepted are captured all the same, so the log may pass the limit by what is in flight.
    """

    def __init__(
        self,
        spill: SpillLog,
        publisher: Publisher,
        max_bytes: int = 512 << 20,
        fsync: Fsync = "never",
    ) -> None:
        self._spill = spill
        self._publisher = publisher
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._commit = GroupCommit(spill.sync)
        self._refused: OSError | None = None
        self._wake = threading.Event()
        self._unheld = threading.Event()
        self._stopping = threading.Event()
        self._waiting_since: float | None = None
        self._thread = LastingThread("capture", self._run)
        self._flusher = LastingThread("fsync", self._flush_often)
        _bytes.set_function(lambda: float(spill.pending_bytes))
        _lag.set_function(self.lag_seconds)

    def start(self) -> None:
        """Publish from now on, beginning with what an earlier process left."""
        self._thread.start()
        if self._fsync == "interval":
            self._flusher.start()

    def ensure_room(self) -> None:
        """Raise Unavailable while the spill log is full: then nothing new may be accepted."""
        pending = self._spill.pending_bytes
        if pending >= self._max_bytes:
            raise Unavailable(
                f"{pending} bytes of captured traffic wait for Kafka, which is the limit; "
                "requests are accepted again when Kafka is reachable",
                retry_after=LONGEST_BACK_OFF_SECONDS,
            )

    def record(self, event: Event) -> None:
        """Return when a kill -9 cannot lose the event. Raises Unavailable when the disk does not
        take it."""
        try:
            self._spill.append(encode(event))
        except OSError as error:
            self._refused = error
            raise _not_recorded(error) from error
        self._refused = None
        _captured.inc()
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._wake.set()
        self._unheld.set()

    async def durable(self) -> None:
        """Return when what was recorded before is as safe as ``fsync`` asks: to be awaited before
        an answer leaves. Raises Unavailable when the disk fails."""
        if self._fsync != "always":
            return
        try:
            await self._commit.wait()
        except OSError as error:
            raise _not_recorded(error) from error

    def lag_seconds(self) -> float:
        """How long the oldest unpublished event has been waiting; 0 when none is."""
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    def problem(self) -> str | None:
        """Why nothing new can be accepted (for /healthz), or None.

        Kafka being away is no such reason while there is room: requests are answered and kept.
        """
        try:
            self.ensure_room()
            if self._refused is not None:
                # Whoever asks after our health may be all that still comes: so find out.
                self._spill.probe()
                self._refused = None
        except Unavailable as error:
            return str(error)
        except OSError as error:
            return str(_not_recorded(error))
        return None

    def flush(self, timeout: float) -> bool:
        """Whether all that was recorded so far is published within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self._spill.pending_bytes and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.01)
        return self._spill.pending_bytes == 0

    def close(self, timeout: float = 5.0) -> None:
        """Publish what can be published in ``timeout`` seconds and let go of the spill log.

        What could not be published stays on disk for the next start.
        """
        if self._thread.is_alive():
            if not self.flush(timeout):
                _log.warning("spill left for the next start", bytes=self._spill.pending_bytes)
            self._stopping.set()
            self._wake.set()
            self._unheld.set()
            self._thread.join(timeout)
            if self._flusher.is_alive():
                self._flusher.join(timeout)
        self._spill.close()

    def _run(self) -> None:
        back_off = 0.1
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                more = self._publish_batch()
            except Exception as error:  # noqa: BLE001 - this thread must outlive whatever happens
                _failures.inc()
                _log.warning(
                    "publishing failed, traffic is kept on disk",
                    problem=f"{type(error).__name__}: {error}",
                    retry_in=back_off,
                )
                self._stopping.wait(back_off)
                back_off = min(back_off * 2, LONGEST_BACK_OFF_SECONDS)
                continue
            back_off = 0.1
            if not more:
                self._wake.wait(1.0)
                # Many requests share one round trip to the broker.
                self._stopping.wait(LINGER_SECONDS)

    def _flush_often(self) -> None:
        last = False
        while not last:
            # Once more at the end: what came since the last time.
            self._unheld.wait()
            self._unheld.clear()
            last = self._stopping.wait(FSYNC_SECONDS)
            try:
                self._spill.sync()
            except OSError as error:
                _log.error("the disk does not hold the spill log", problem=str(error))

    def _publish_batch(self) -> bool:
        batch, after = self._spill.read()
        if batch:
            self._publisher.publish_records(batch)
            _published.inc(len(batch))
        self._spill.advance(after)
        if not self._spill.pending_bytes:
            self._waiting_since = None
        return bool(batch)


def _not_recorded(error: OSError) -> Unavailable:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else f"the disk refused it ({error.strerror})"
    return Unavailable(
        f"the request could not be recorded: {what}; free space in the workspace",
        retry_after=LONGEST_BACK_OFF_SECONDS,
    )
