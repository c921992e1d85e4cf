"""The one loop that every Faust agent runs in: decode, handle, send, await, acknowledge."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import structlog
from prometheus_client import Counter, Histogram

from flywheel.contracts.codec import Record, decode, encode
from flywheel.contracts.events import Event
from flywheel.contracts.positions import Handled
from flywheel.errors import BrokerError, EventError, FlywheelError, ForeignBroker
from streams import connection
from streams.arrival import no_later_than_arrival
from streams.batches import MOST_RECORDS, Handle, RejectedEvents, handle_batch
from streams.dead_letters import letter_of, record_of_letter
from streams.figures import AgentFigures, dead_lettered
from streams.groups import await_groups
from streams.logs import TopicLogs
from streams.pace import UNPACED, Pace
from streams.quiet import quieten
from streams.sending import Sender
from streams.worker_app import batches_of, build_app, handled_ranges

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings
    from streams.transport import Batch

T = TypeVar("T")

__all__ = [
    "EXIT_FORCED",
    "EXIT_HOPELESS",
    "Agent",
    "RejectedEvents",
    "run_worker",
]

EXIT_HOPELESS = 70  # what happened cannot be mended here: let the supervisor start anew
EXIT_FORCED = 75  # stopping took too long; what was not acknowledged will be delivered again

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_SUSPICIOUS_AFTER = 6  # failures of one batch before it is searched for a single bad event
_GIVE_UP_SECONDS = 300.0
_DEAF_SECONDS = 60.0
_KILL_SECONDS = 20.0
_IDLE_SECONDS = 8.0
_MEASURE_SECONDS = 2.0

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


def run_worker(
    kafka: KafkaSettings,
    agents: Sequence[Agent],
    *,
    on_ready: Callable[[], None] | None = None,
    session_seconds: float = 10.0,
) -> int:
    """Run agents until SIGTERM or SIGINT; returns the exit status of the process.

    Topics must exist (``ensure_topics``). Each agent is a consumer group of its own. What cannot
    be mended ends the process at once with status 70, before anything is acknowledged; so does a
    topic that was made anew, since the client may go on in it where it stood in the one before.
    Raises BrokerError when Kafka does not answer.
    """
    quieten()
    with suppress(BrokerError):  # it went away again: the clients wait for it too
        await_groups(kafka, [agent.group for agent in agents])
    logs = TopicLogs(kafka, [topic for agent in agents for topic in agent.topics])
    listener = connection.ListenerWatch(kafka)
    try:
        return asyncio.run(_run(kafka, agents, logs, listener, on_ready, session_seconds))
    finally:
        listener.close()
        logs.close()


async def _run(
    kafka: KafkaSettings,
    agents: Sequence[Agent],
    logs: TopicLogs,
    listener: connection.ListenerWatch,
    on_ready: Callable[[], None] | None,
    session_seconds: float,
) -> int:
    known = logs.read()
    loops = [_Loop(one, build_app(kafka, one.group, session_seconds), known) for one in agents]
    stop = asyncio.Event()
    timer = threading.Timer(_KILL_SECONDS, _forced)
    timer.daemon = True

    def asked_to_stop() -> None:
        if not stop.is_set():
            stop.set()
            timer.start()

    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, asked_to_stop)
    await asyncio.gather(*(one.app.start() for one in loops))
    _log.info("worker started", groups=[one.agent.group for one in loops])
    if on_ready is not None:
        on_ready()
    try:
        status = await _watch(loops, logs, listener, known, stop)
    except Exception as error:  # noqa: BLE001 - the process's boundary
        _hopeless(", ".join(one.agent.group for one in loops), error)
    asked_to_stop()
    await asyncio.gather(*(one.finish() for one in loops))
    await asyncio.gather(*(one.app.stop() for one in loops))
    timer.cancel()
    _log.info("worker stopped", status=status)
    return status


async def _watch(
    loops: Sequence[_Loop],
    logs: TopicLogs,
    listener: connection.ListenerWatch,
    known: Mapping[str, str],
    stop: asyncio.Event,
) -> int:
    """Wait for the signal to stop, or for the reason to start anew; returns the exit status."""
    heard = time.monotonic()

    def look() -> list[str]:
        listener.require()
        return logs.others(known)

    while not stop.is_set():
        for one in loops:
            if one.app.should_stop:
                _log.error("agent stopped by itself", group=one.agent.group)
                return EXIT_HOPELESS
            with suppress(TimeoutError):  # the broker is away: the last figures stay
                async with asyncio.timeout(_MEASURE_SECONDS):
                    await one.figures.measure()
        try:
            if anew := await asyncio.to_thread(look):
                _log.error("topics were made anew, ending the process", topics=anew)
                return EXIT_HOPELESS
            heard = time.monotonic()
        except ForeignBroker as error:
            _log.error("another Kafka has the port, ending the process", reason=str(error))
            return EXIT_HOPELESS
        except BrokerError as error:
            if time.monotonic() - heard > _DEAF_SECONDS:
                # After minutes without a broker the clients have piled up retries: start clean.
                _log.error("Kafka is away too long, ending the process", reason=str(error))
                return EXIT_HOPELESS
        try:
            async with asyncio.timeout(1.0):
                await stop.wait()
        except TimeoutError:
            continue
    return 0


def _forced() -> None:
    _log.error("worker does not stop, ending it", seconds=_KILL_SECONDS)
    os._exit(EXIT_FORCED)


def _hopeless(group: str, error: BaseException) -> NoReturn:
    """End the process before anything of this batch is acknowledged.

    Raising instead would make Faust acknowledge the batch, or hang on the next SIGTERM.
    """
    _log.critical("hopeless, ending the process", group=group, exc_info=error)
    os._exit(EXIT_HOPELESS)


class _Decided(NamedTuple):
    """What became of a batch: the records to send, and what is to be noted when they are."""

    records: list[Record]
    to_note: Sequence[Handled]


class _Loop:
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
                _hopeless(self.agent.group, error)
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
            _hopeless(self.agent.group, error)
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
