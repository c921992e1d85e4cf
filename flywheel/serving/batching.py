"""Dynamic batching: texts that arrive together are asked together, in as many batches as fit."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Gauge, Histogram

from flywheel.errors import FlywheelError, RequestError, TooManyRequests
from flywheel.serving.engine import Classified, Classifier, Generated, Generator

Served = Classifier | Generator
Ask = Callable[[Sequence[str]], list[Any]]

# Threads that wait for engines in other processes; each release bounds its own share.
_REMOTE_THREADS = 256

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
class _Request:
    """Whether any of a request's texts is being answered: then the others are, too."""

    begun: bool = False


@dataclass(slots=True)
class _Piece:
    """Texts of one request that fit into one batch."""

    texts: Sequence[str]
    done: asyncio.Future[list[Any]]
    request: _Request
    queued_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Queue:
    """The pieces that wait for one release."""

    ask: Ask
    max_batch: int
    pieces: deque[_Piece] = field(default_factory=deque)


class _Lane:
    """Queues that share slots: those of everything in this process, or of one remote release."""

    def __init__(self, slots: int, worker: ThreadPoolExecutor) -> None:
        self.worker = worker
        self.slots = asyncio.Semaphore(slots)
        self.queues: OrderedDict[Served, _Queue] = OrderedDict()
        self.arrived = asyncio.Event()
        self.together = False
        self.task: asyncio.Task[None] | None = None
        self.running: set[asyncio.Task[None]] = set()


class Batcher:
    """One per process: a queue per release. Lives in one event loop.

    A batch starts at once while requests come one at a time; once they come together it waits up
    to ``max_wait_ms`` to fill up to ``max_batch``. At most ``queue_size`` texts wait, and none
    longer than ``max_queue_seconds``: whoever asked has given up by then, and an engine that is
    asked for more than it can do would otherwise compute nothing but what nobody reads. Releases
    that compute in this process share one thread; a remote one is asked from several.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        max_wait_ms: float,
        queue_size: int,
        max_queue_seconds: float = 8.0,
    ) -> None:
        self._max_batch = max_batch
        self._max_wait = max_wait_ms / 1000
        self._queue_size = queue_size
        self._max_queue_seconds = max_queue_seconds
        self._waiting = 0
        self._lanes: dict[Served | None, _Lane] = {}
        self._local = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._remote = ThreadPoolExecutor(_REMOTE_THREADS, thread_name_prefix="engine")

    @property
    def waiting(self) -> int:
        """Texts waiting for a batch."""
        return self._waiting

    async def stop(self) -> None:
        """Stop; what still waits is cancelled."""
        for lane in list(self._lanes.values()):
            for queue in lane.queues.values():
                for piece in queue.pieces:
                    piece.done.cancel()
            tasks = [*lane.running, *([lane.task] if lane.task else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._lanes.clear()
        self._local.shutdown(wait=True)
        self._remote.shutdown(wait=False, cancel_futures=True)

    async def classify(self, classifier: Classifier, texts: Sequence[str]) -> list[Classified]:
        """An answer to every text, in order.

        Raises TooManyRequests when the queue is full or the texts waited in it for too long, and
        RequestError for more texts than it could ever hold.
        """
        return await self._answer(classifier, classifier.classify, texts)

    async def generate(self, generator: Generator, texts: Sequence[str]) -> list[Generated]:
        """A generated text for every text, in order. Raises as ``classify`` does."""
        return await self._answer(generator, generator.generate, texts)

    async def _answer(self, served: Served, ask: Ask, texts: Sequence[str]) -> list[Any]:
        if len(texts) > self._queue_size:
            raise RequestError(f"input: {len(texts)} texts; at most {self._queue_size} at once")
        if self._waiting + len(texts) > self._queue_size:
            raise TooManyRequests(f"{self._waiting} texts are waiting, which is the limit")
        loop = asyncio.get_running_loop()
        max_batch = served.batch or self._max_batch
        request = _Request()
        pieces = [
            _Piece(texts[start : start + max_batch], loop.create_future(), request)
            for start in range(0, len(texts), max_batch)
        ]
        lane = self._lane(served)
        lane.queues.setdefault(served, _Queue(ask, max_batch)).pieces.extend(pieces)
        self._count(len(texts))
        lane.arrived.set()
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(lane))
        if len(pieces) == 1:
            return await pieces[0].done
        results = await asyncio.gather(*(piece.done for piece in pieces))
        return [answer for part in results for answer in part]

    def _lane(self, served: Served) -> _Lane:
        local = served.parallel == 1
        key = None if local else served
        if key not in self._lanes:
            worker = self._local if local else self._remote
            self._lanes[key] = _Lane(served.parallel, worker)
        return self._lanes[key]

    def _count(self, change: int) -> None:
        self._waiting += change
        _queued.set(self._waiting)

    async def _work(self, lane: _Lane) -> None:
        """Start batches while something waits; a lane that is idle has no task."""
        try:
            await self._start_batches(lane)
        finally:
            # Whatever ended it, the next request begins it again.
            lane.task = None

    async def _start_batches(self, lane: _Lane) -> None:
        while lane.queues:
            await lane.slots.acquire()
            served, queue = min(lane.queues.items(), key=lambda item: item[1].pieces[0].queued_at)
            if lane.together and self._max_wait:
                await self._fill(lane, queue)
            batch = self._take(queue)
            if not queue.pieces:
                del lane.queues[served]
            lane.together = len(batch) > 1
            task = asyncio.create_task(self._infer(lane.worker, queue.ask, batch))
            lane.running.add(task)
            task.add_done_callback(lambda task: self._ended(lane, task))

    def _ended(self, lane: _Lane, task: asyncio.Task[None]) -> None:
        lane.running.discard(task)
        lane.slots.release()
        if lane.task is None and not lane.running:
            # A release that is closed must not be kept by its lane.
            for key in [key for key, known in self._lanes.items() if known is lane]:
                del self._lanes[key]

    async def _fill(self, lane: _Lane, queue: _Queue) -> None:
        deadline = queue.pieces[0].queued_at + self._max_wait
        while sum(len(piece.texts) for piece in queue.pieces) < queue.max_batch:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            lane.arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await lane.arrived.wait()
            except TimeoutError:
                return

    def _take(self, queue: _Queue) -> list[_Piece]:
        batch: list[_Piece] = []
        size = 0
        pieces = queue.pieces
        while pieces and (not batch or size + len(pieces[0].texts) <= queue.max_batch):
            piece = pieces.popleft()
            self._count(-len(piece.texts))
            if piece.done.done() or self._late(piece):
                continue
            piece.request.begun = True
            batch.append(piece)
            size += len(piece.texts)
        return batch

    def _late(self, piece: _Piece) -> bool:
        waited = time.monotonic() - piece.queued_at
        if piece.request.begun or waited <= self._max_queue_seconds:
            return False
        piece.done.set_exception(
            TooManyRequests(
                f"waited {waited:.0f} s in the queue: this server is asked for more than it can do"
            )
        )
        return True

    async def _infer(self, worker: ThreadPoolExecutor, ask: Ask, batch: list[_Piece]) -> None:
        texts = [text for piece in batch for text in piece.texts]
        if not texts:
            return
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            answers = await loop.run_in_executor(worker, ask, texts)
        except Exception as error:  # noqa: BLE001 - whatever the model raises belongs to its callers
            await self._isolate(worker, ask, batch, error)
            return
        _inference.observe(time.perf_counter() - started)
        _sizes.observe(len(texts))
        start = 0
        for piece in batch:
            end = start + len(piece.texts)
            if not piece.done.done():
                piece.done.set_result(answers[start:end])
            start = end

    async def _isolate(
        self, worker: ThreadPoolExecutor, ask: Ask, batch: list[_Piece], error: Exception
    ) -> None:
        """One text that the model cannot take must not fail those it was batched with."""
        away = isinstance(error, FlywheelError) and error.retryable
        if len(batch) > 1 and not away:
            for piece in batch:
                await self._infer(worker, ask, [piece])
            return
        for piece in batch:
            if not piece.done.done():
                piece.done.set_exception(error)
