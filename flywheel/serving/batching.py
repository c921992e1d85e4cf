"""Dynamic batching: texts that arrive together are classified together, in one worker thread."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from prometheus_client import Gauge, Histogram

from flywheel.errors import RequestError, TooManyRequests
from flywheel.serving.engine import Classifier

Scores = dict[str, float]

_sizes = Histogram(
    "flywheel_serving_batch_size",
    "Texts per batch.",
    buckets=(1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128),
)
_queued = Gauge("flywheel_serving_queue", "Texts waiting for a batch.")
_inference = Histogram(
    "flywheel_serving_inference_seconds",
    "Time of one batch in the model.",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1),
)


@dataclass(slots=True)
class _Piece:
    """Texts of one request that fit into one batch."""

    texts: Sequence[str]
    done: asyncio.Future[list[Scores]]
    queued_at: float = field(default_factory=time.monotonic)


class Batcher:
    """One per process: a queue per release, one worker thread. Lives in one event loop.

    A batch starts at once while requests come one at a time; once they come together it waits up
    to ``max_wait_ms`` to fill up to ``max_batch``. At most ``queue_size`` texts wait.
    """

    def __init__(self, *, max_batch: int, max_wait_ms: float, queue_size: int) -> None:
        self._max_batch = max_batch
        self._max_wait = max_wait_ms / 1000
        self._queue_size = queue_size
        self._queues: OrderedDict[Classifier, deque[_Piece]] = OrderedDict()
        self._waiting = 0
        self._arrived = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Texts waiting for a batch."""
        return self._waiting

    def start(self) -> None:
        """Start working in the running loop."""
        self._loop_task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop; what still waits is cancelled."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        for queue in self._queues.values():
            for piece in queue:
                piece.done.cancel()
        self._worker.shutdown(wait=True)

    async def classify(self, classifier: Classifier, texts: Sequence[str]) -> list[Scores]:
        """Scores of every text, in order.

        Raises TooManyRequests when the queue is full and RequestError for more texts than it
        could ever hold.
        """
        if len(texts) > self._queue_size:
            raise RequestError(f"input: {len(texts)} texts; at most {self._queue_size} at once")
        if self._waiting + len(texts) > self._queue_size:
            raise TooManyRequests(f"{self._waiting} texts are waiting, which is the limit")
        loop = asyncio.get_running_loop()
        pieces = [
            _Piece(texts[start : start + self._max_batch], loop.create_future())
            for start in range(0, len(texts), self._max_batch)
        ]
        self._queues.setdefault(classifier, deque()).extend(pieces)
        self._count(len(texts))
        self._arrived.set()
        if len(pieces) == 1:
            return await pieces[0].done
        results = await asyncio.gather(*(piece.done for piece in pieces))
        return [scores for part in results for scores in part]

    def _count(self, change: int) -> None:
        self._waiting += change
        _queued.set(self._waiting)

    async def _run(self) -> None:
        together = False
        while True:
            if not self._queues:
                self._arrived.clear()
                await self._arrived.wait()
            classifier, queue = min(self._queues.items(), key=lambda item: item[1][0].queued_at)
            if together and self._max_wait:
                await self._fill(queue)
            batch = self._take(classifier, queue)
            together = len(batch) > 1
            if batch:
                await self._infer(classifier, batch)

    async def _fill(self, queue: deque[_Piece]) -> None:
        deadline = queue[0].queued_at + self._max_wait
        while sum(len(piece.texts) for piece in queue) < self._max_batch:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self, classifier: Classifier, queue: deque[_Piece]) -> list[_Piece]:
        batch: list[_Piece] = []
        size = 0
        while queue and (not batch or size + len(queue[0].texts) <= self._max_batch):
            piece = queue.popleft()
            self._count(-len(piece.texts))
            if piece.done.cancelled():
                continue
            batch.append(piece)
            size += len(piece.texts)
        if not queue:
            del self._queues[classifier]
        return batch

    async def _infer(self, classifier: Classifier, batch: list[_Piece]) -> None:
        texts = [text for piece in batch for text in piece.texts]
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            scores = await loop.run_in_executor(self._worker, classifier.predict, texts)
        except Exception as error:  # noqa: BLE001 - whatever the model raises belongs to its callers
            await self._isolate(classifier, batch, error)
            return
        _inference.observe(time.perf_counter() - started)
        _sizes.observe(len(texts))
        start = 0
        for piece in batch:
            end = start + len(piece.texts)
            if not piece.done.done():
                piece.done.set_result(scores[start:end])
            start = end

    async def _isolate(self, classifier: Classifier, batch: list[_Piece], error: Exception) -> None:
        """One text that the model cannot take must not fail those it was batched with."""
        if len(batch) > 1:
            for piece in batch:
                await self._infer(classifier, [piece])
        elif not batch[0].done.done():
            batch[0].done.set_exception(error)
