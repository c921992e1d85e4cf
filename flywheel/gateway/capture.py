"""No acknowledged request is lost: events go to the spill log first, and from there to Kafka."""

from __future__ import annotations

import errno
import threading
import time

import structlog
from prometheus_client import Counter, Gauge

from flywheel.contracts.codec import encode
from flywheel.contracts.events import Event
from flywheel.contracts.publishing import Publisher
from flywheel.errors import Unavailable
from flywheel.gateway.spill import SpillLog

_log = structlog.get_logger(__name__)
_bytes = Gauge("flywheel_gateway_spill_bytes", "Captured bytes not yet acknowledged by Kafka.")
_lag = Gauge("flywheel_gateway_spill_lag_seconds", "Age of the oldest unpublished capture.")
_captured = Counter("flywheel_gateway_captured_total", "Events written to the spill log.")
_published = Counter("flywheel_gateway_published_total", "Events acknowledged by Kafka.")
_failures = Counter("flywheel_gateway_publish_failures_total", "Attempts that Kafka refused.")

LINGER_SECONDS = 0.02
LONGEST_BACK_OFF_SECONDS = 5.0


class Capture:
    """Appends events to ``spill`` and publishes them on a thread of its own.

    While more than ``max_bytes`` wait for Kafka, ``ensure_room`` refuses. Requests already
    accepted are captured all the same, so the log may pass the limit by what is in flight.
    """

    def __init__(self, spill: SpillLog, publisher: Publisher, max_bytes: int = 512 << 20) -> None:
        self._spill = spill
        self._publisher = publisher
        self._max_bytes = max_bytes
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._waiting_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        _bytes.set_function(lambda: float(spill.pending_bytes))
        _lag.set_function(self.lag_seconds)

    def start(self) -> None:
        """Publish from now on, beginning with what an earlier process left."""
        self._thread.start()

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
        """Return when the event is safe. Raises Unavailable when the disk does not take it."""
        try:
            self._spill.append(encode(event))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if full else f"the disk refused it ({error.strerror})"
            raise Unavailable(
                f"the request could not be recorded: {what}; free space in the workspace",
                retry_after=LONGEST_BACK_OFF_SECONDS,
            ) from error
        _captured.inc()
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._wake.set()

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
        except Unavailable as error:
            return str(error)
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
            self._thread.join(timeout)
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

    def _publish_batch(self) -> bool:
        batch, after = self._spill.read()
        if batch:
            self._publisher.publish_records(batch)
            _published.inc(len(batch))
        self._spill.advance(after)
        if not self._spill.pending_bytes:
            self._waiting_since = None
        return bool(batch)
