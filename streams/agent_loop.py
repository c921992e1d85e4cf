"""One agent's loop: decode, handle, send, await, acknowledge."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import structlog
from prometheus_client import Counter, Histogram

from flywheel.contracts.codec import Record, decode, encode
from flywheel.contracts.events import Event
from flywheel.contracts.positions import Handled
from flywheel.errors import EventError, FlywheelError
from streams.arrival import no_later_than_arrival
from streams.batches import MOST_RECORDS, Handle, handle_batch
from streams.dead_letters import letter_of, record_of_letter
from streams.figures import AgentFigures, dead_lettered
from streams.pace import UNPACED, Pace
from streams.sending import Sender
from streams.worker_app import batches_of, handled_ranges

if TYPE_CHECKING:
    from streams.transport import Batch

T = TypeVar("T")

EXIT_HOPELESS = 70  # what happened cannot be mended here: let the supervisor start anew

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_SUSPICIOUS_AFTER = 6  # failures of one batch before it is searched for a single bad event
_GIVE_UP_SECONDS = 300.0
_IDLE_SECONDS = 8.0

_sent = Counter("flywheel_agent_sent", "Events sent by agents and acknowledged.", ["group"])
_retries = Counter("flywheel_agent_retries", "Batches tried again.", ["group"])
_seconds = Histogram("flywheel_agent_batch_seconds", "From a batch to its acks.", ["group"])

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Agent:
    """One consumer group: what it reads and what it does with a batch.

    ``handle`` runs in a thread, one call at a time, and returns the events to send before the
    batch is acknowledged. It must be all or nothing and idempotent by event id. It may raise
    RejectedEvents (those go to dead letters, the rest comes again), any retryable FlywheelError
    (the same batch comes again), or EventError and data errors (the event at fault is isolated).
    An agent with a ``note`` keeps how far its group is: ``handle`` is told so with a whole batch,
    and notes it together with the effects; ``note`` is told before a batch is acknowledged that
    came to more, such as dead letters. Batches begin at its ``pace``, unless enough records wait
    for one: where little comes, one transaction does for all that came meanwhile.
    """

    group: str
    topics: tuple[str, ...]
    handle: Handle
    note: Callable[[str, Sequence[Handled]], None] | None = None
    pace: Pace = UNPACED


def end_hopeless(group: str, error: BaseException) -> NoReturn:
    """End the process before anything of this batch is acknowledged.

    Raising instead would make Faust acknowledge the batch, or hang on the next SIGTERM.
    """
    _log.critical("hopeless, ending the process", group=group, exc_info=error)
    os._exit(EXIT_HOPELESS)


class _Decided(NamedTuple):
    """What became of a batch: the records to send, and what is to be noted when they are."""

    records: list[Record]
    to_note: Sequence[Handled]


class AgentLoop:
    """One agent in its Faust app."""

    def __init__(self, agent: Agent, app: Any, logs: Mapping[str, str]) -> None:
        self.agent = agent
        self.logs = logs
        self._stopping = asyncio.Event()
        self._in_hand = 0
        self._delivery: asyncio.Task[None] | None = None
        self._began = 0.0
        self._pause = 0.0
        self._stopped = asyncio.ensure_future(self._stopping.wait())
        self._idle = asyncio.Event()
        self._idle.set()
        # One thread: batches of a group never overlap, so their order is the log's.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=agent.group)
        self.app = app
        self.figures = AgentFigures(agent.group, agent.topics, app)
        self._sender = Sender(agent.group, app)
        topic = batches_of(self.app, agent.topics)
        self.app.agent(topic, name=agent.group, concurrency=1)(self._consume)

    async def finish(self) -> None:
        """Let the batches in hand be finished, within reason; take no other."""
        self._stopping.set()
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("batch left unacknowledged", group=self.agent.group)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _consume(self, stream: Any) -> None:
        fetched = stream.noack()
        queue = fetched.channel.queue
        async for event in fetched.events():
            if self._stopping.is_set():
                continue  # not acknowledged: it is delivered again after the restart
            events = [event, *await self._company(queue, event)]
            if self._stopping.is_set():
                continue
            self._hold(1)
            batches: list[Batch] = [event.message.value for event in events]
            count = sum(len(batch.records) for batch in batches)
            began = time.perf_counter()
            self._pause = self.agent.pace.pause(count, began - self._began)
            self._began = began
            try:
                decided = await self._patiently(count, partial(self._decide, batches))
                # One batch is decided while that before it is sent; they are acknowledged in order.
                # A delivery outlives the stream that it came from, as a rebalance ends it.
                if self._delivery is not None:
                    await asyncio.wait([self._delivery])
            except asyncio.CancelledError:
                self._hold(-1)
                raise
            except BaseException as error:  # noqa: BLE001 - the process's boundary
                end_hopeless(self.agent.group, error)
            self._delivery = asyncio.create_task(self._deliver(events, decided, began))

    def _hold(self, more: int) -> None:
        """So many more batches are in hand."""
        self._in_hand += more
        if self._in_hand:
            self._idle.clear()
        else:
            self._idle.set()

    async def _company(self, queue: Any, event: Any) -> list[Any]:
        """What else has come, or comes before the agent's pause is over, as long as it is few
        records: one transaction does."""
        found: list[Any] = []
        records = len(event.message.value.records)
        while records < MOST_RECORDS and (other := await self._other(queue)) is not None:
            if other.message.generation_id == self.app.consumer_generation_id:
                found.append(other)
                records += len(other.message.value.records)
        return found

    async def _other(self, queue: Any) -> Any:
        """The next in the queue, or None where the pause after the last batch ends before it."""
        if not queue.empty():
            return queue.get_nowait()
        left = self._began + self._pause - time.perf_counter()
        if left <= 0:
            return None
        # Whoever is told to go while the pause ends leaves what comes in the queue.
        taken = asyncio.ensure_future(queue.get())
        try:
            await asyncio.wait(
                [taken, self._stopped], timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            return taken.result() if taken.done() else None
        finally:
            taken.cancel()

    async def _deliver(self, events: Sequence[Any], decided: _Decided, began: float) -> None:
        """Send, note how far the group is, acknowledge."""
        count = sum(len(event.message.value.records) for event in events)
        try:
            await self._sender.send(decided.records)
            if decided.to_note:
                await self._patiently(count, lambda _: self._note(decided.to_note))
            for event in events:
                event.ack()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the process's boundary
            end_hopeless(self.agent.group, error)
        finally:
            self._hold(-1)
        _sent.labels(self.agent.group).inc(len(decided.records))
        _seconds.labels(self.agent.group).observe(time.perf_counter() - began)
        self.figures.count(count)

    def _note(self, handled: Sequence[Handled]) -> None:
        if self.agent.note is not None:
            self.agent.note(self.agent.group, handled)

    async def _patiently(self, records: int, work: Callable[[bool], T]) -> T:
        """Try again in place while the failure is one that passes. ``work`` is told whether a
        single event is suspected of it."""
        loop = asyncio.get_running_loop()
        began, pause, failures = time.monotonic(), _FIRST_PAUSE, 0
        while True:
            suspicious = failures >= _SUSPICIOUS_AFTER
            try:
                return await loop.run_in_executor(self._thread, work, suspicious)
            except (FlywheelError, ConnectionError, TimeoutError) as error:
                passing = error.retryable if isinstance(error, FlywheelError) else True
                if not passing or time.monotonic() - began > _GIVE_UP_SECONDS:
                    raise
                failures += 1
                _retries.labels(self.agent.group).inc()
                _log.warning(
                    "batch failed, trying again",
                    group=self.agent.group,
                    events=records,
                    failures=failures,
                    reason=f"{type(error).__name__}: {error}",
                )
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _decide(self, batches: Sequence[Batch], suspicious: bool) -> _Decided:
        """Turn bytes into the records to send, in the agent's thread."""
        messages = [message for batch in batches for message in batch.records]
        events: list[Event] = []
        origin: dict[int, Any] = {}
        rejected: list[tuple[Any, EventError, str]] = []
        for message in messages:
            try:
                event = no_later_than_arrival(decode(message.value, _headers(message)), message)
            except EventError as problem:
                rejected.append((message, problem, ""))
            else:
                events.append(event)
                origin[id(event)] = message
        whole = handled_ranges(batches, self.logs) if self.agent.note is not None else []
        to_note = list(whole)

        def handle(some: Sequence[Event]) -> list[Record]:
            handled = whole if len(some) == len(messages) else []
            # An event that causes one which no topic takes is found and rejected.
            records = [encode(event) for event in self.agent.handle(some, handled)]
            if handled:
                to_note.clear()
            return records

        outcome = handle_batch(handle, events, suspicious=suspicious)
        rejected += [(origin[id(event)], error, event.task) for event, error in outcome.rejected]
        letters = []
        for message, error, task in rejected:
            letter = letter_of(message, self.agent.group, error, task)
            letters.append(record_of_letter(letter))
            dead_lettered.labels(self.agent.group, error.code).inc()
            _log.warning(
                "dead-lettered",
                group=self.agent.group,
                where=f"{message.topic}/{message.partition}/{message.offset}",
                code=error.code,
                reason=letter.reason,
            )
        return _Decided(outcome.produced + letters, to_note)


def _headers(message: Any) -> Mapping[str, bytes | None]:
    return dict(message.headers) if message.headers else {}
