"""Copies of requests for the other arm, scored behind the answer and dropped under pressure."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import structlog
from prometheus_client import Counter

from flywheel.contracts.events import Arm, ShadowRecorded
from flywheel.contracts.ids import id_within, utc_now
from flywheel.contracts.model_server import Call
from flywheel.errors import FlywheelError, RequestError
from flywheel.gateway.capture import Capture
from flywheel.gateway.forward import ModelServers

_log = structlog.get_logger(__name__)
_scored = Counter("flywheel_gateway_shadow_scored_total", "Copies that the other arm scored.")
_dropped = Counter("flywheel_gateway_shadow_dropped_total", "Copies dropped: no time for them.")


class Copy(NamedTuple):
    """What to score: one sample, and the arm that did not answer it."""

    sample_id: str
    task: str
    call: Call
    text: str
    release: str
    arm: Arm
    rollout_id: str
    challenger_share: float


class Shadow:
    """A bounded queue and a few workers in the gateway's event loop."""

    def __init__(
        self, servers: ModelServers, capture: Capture, *, concurrency: int, queue_size: int
    ) -> None:
        self._servers = servers
        self._capture = capture
        self._concurrency = concurrency
        self._queue: asyncio.Queue[Copy] = asyncio.Queue(queue_size)
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the workers in the running loop."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]

    def submit(self, copy: Copy) -> None:
        """Queue a copy, or drop and count it when the queue is full: callers never wait."""
        try:
            self._queue.put_nowait(copy)
        except asyncio.QueueFull:
            _dropped.inc()

    async def stop(self, within: float) -> None:
        """Finish what is queued within ``within`` seconds; the rest is dropped and counted."""
        try:
            async with asyncio.timeout(within):
                await self._queue.join()
        except TimeoutError:
            _dropped.inc(self._queue.qsize())
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            copy = await self._queue.get()
            try:
                await self._score(copy)
            except FlywheelError as error:
                _dropped.inc()
                _log.warning("shadow not recorded", sample_id=copy.sample_id, problem=str(error))
            except Exception:  # noqa: BLE001 - one copy must not end the scoring of all others
                _dropped.inc()
                _log.exception("shadow not recorded", sample_id=copy.sample_id)
            finally:
                self._queue.task_done()

    async def _score(self, copy: Copy) -> None:
        started, since = time.perf_counter(), time.monotonic()
        try:
            prediction = await self._servers.ask_arm(copy.call, copy.release, copy.text)
        except RequestError as error:
            if self._servers.outage_since(since, error):
                _dropped.inc()  # no model server was there to ask: that says nothing of this arm
                return
            self._capture.record(_recorded(copy, started, error=str(error)))
            return
        _scored.inc()
        self._capture.record(
            _recorded(
                copy,
                started,
                output=prediction.output,
                scores=prediction.scores,
                confidence=prediction.confidence,
                tokens_cut=prediction.tokens_cut,
            )
        )


def _recorded(
    copy: Copy,
    started: float,
    *,
    output: str | None = None,
    scores: dict[str, float] | None = None,
    confidence: float | None = None,
    error: str | None = None,
    tokens_cut: int = 0,
) -> ShadowRecorded:
    return ShadowRecorded(
        event_id=id_within(copy.sample_id, "shadow", copy.task, copy.release, copy.rollout_id),
        occurred_at=utc_now(),
        task=copy.task,
        sample_id=copy.sample_id,
        release=copy.release,
        arm=copy.arm,
        rollout_id=copy.rollout_id,
        challenger_share=copy.challenger_share,
        output=output,
        scores={} if scores is None else scores,
        confidence=confidence,
        latency_ms=(time.perf_counter() - started) * 1000,
        error=error,
        tokens_cut=tokens_cut,
    )
