"""The one loop that every Faust agent runs in: decode, handle, send, await, acknowledge."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from flywheel.contracts.codec import Record, decode, encode
from flywheel.contracts.events import Event
from flywheel.errors import BrokerError, EventError, FlywheelError, ForeignBroker
from streams import connection
from streams.arrival import no_later_than_arrival
from streams.batches import Handle, RejectedEvents, handle_batch
from streams.behind import behind
from streams.dead_letters import letter_of, letter_of_refused, record_of_letter
from streams.groups import await_groups
from streams.publisher import is_refusal
from streams.quiet import quieten
from streams.worker_app import batches_of, build_app

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

__all__ = ["EXIT_FORCED", "EXIT_HOPELESS", "Agent", "RejectedEvents", "run_worker"]

EXIT_HOPELESS = 70  # what happened cannot be mended here: let the supervisor start anew
EXIT_FORCED = 75  # stopping took too long; what was not acknowledged will be delivered again

_BATCHES = 4  # of one partition each, as they were fetched
_WITHIN_SECONDS = 0.05
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_SUSPICIOUS_AFTER = 6  # failures of one batch before it is searched for a single bad event
_GIVE_UP_SECONDS = 300.0
_DEAF_SECONDS = 60.0
_KILL_SECONDS = 20.0
_IDLE_SECONDS = 8.0
_MEASURE_SECONDS = 2.0

_handled = Counter("flywheel_agent_events", "Events handled and acknowledged.", ["group"])
_sent = Counter("flywheel_agent_sent", "Events sent by agents and acknowledged.", ["group"])
_dead = Counter("flywheel_agent_dead_lettered", "Records dead-lettered.", ["group", "code"])
_retries = Counter("flywheel_agent_retries", "Batches tried again.", ["group"])
_seconds = Histogram("flywheel_agent_batch_seconds", "From a batch to its acks.", ["group"])
_lag = Gauge("flywheel_agent_lag", "Records not yet handled.", ["group", "topic"])

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Agent:
    """One consumer group: what it reads and what it does with a batch.

    ``handle`` runs in a thread, one call at a time, and returns the events to send before the
    batch is acknowledged. It must be all or nothing and idempotent by event id. It may raise
    RejectedEvents (those go to dead letters, the rest comes again), any retryable FlywheelError
    (the same batch comes again), or EventError and data errors (the event at fault is isolated).
    """

    group: str
    topics: tuple[str, ...]
    handle: Handle


def run_worker(
    kafka: KafkaSettings,
    agents: Sequence[Agent],
    *,
    on_ready: Callable[[], None] | None = None,
    session_seconds: float = 10.0,
) -> int:
    """Run agents until SIGTERM or SIGINT; returns the exit status of the process.

    Topics must exist (``ensure_topics``). Each agent is a consumer group of its own. What cannot
    be mended ends the process at once with status 70, before anything is acknowledged.
    """
    quieten()
    with suppress(BrokerError):  # it went away again: the clients wait for it too
        await_groups(kafka, [agent.group for agent in agents])
    return asyncio.run(_run(kafka, agents, on_ready, session_seconds))


async def _run(
    kafka: KafkaSettings,
    agents: Sequence[Agent],
    on_ready: Callable[[], None] | None,
    session_seconds: float,
) -> int:
    loops = [_Loop(agent, build_app(kafka, agent.group, session_seconds)) for agent in agents]
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    await asyncio.gather(*(one.app.start() for one in loops))
    _log.info("worker started", groups=[agent.group for agent in agents])
    if on_ready is not None:
        on_ready()
    status = await _watch(kafka, loops, stop)
    timer = threading.Timer(_KILL_SECONDS, _forced)
    timer.daemon = True
    timer.start()
    await asyncio.gather(*(one.finish() for one in loops))
    await asyncio.gather(*(one.app.stop() for one in loops))
    timer.cancel()
    _log.info("worker stopped", status=status)
    return status


async def _watch(kafka: KafkaSettings, loops: Sequence[_Loop], stop: asyncio.Event) -> int:
    """Wait for the signal to stop, or for the reason to start anew; returns the exit status."""
    heard = time.monotonic()
    while not stop.is_set():
        for one in loops:
            if one.app.should_stop:
                _log.error("agent stopped by itself", group=one.agent.group)
                return EXIT_HOPELESS
            with suppress(TimeoutError):  # the broker is away: the last figures stay
                async with asyncio.timeout(_MEASURE_SECONDS):
                    await one.measure_lag()
        try:
            await asyncio.to_thread(connection.require_listener, kafka)
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


def _hopeless(group: str, error: BaseException) -> None:
    """End the process before anything of this batch is acknowledged.

    Raising instead would make Faust acknowledge the batch, or hang on the next SIGTERM.
    """
    _log.critical("hopeless, ending the process", group=group, exc_info=error)
    os._exit(EXIT_HOPELESS)


class _Loop:
    """One agent in its Faust app."""

    def __init__(self, agent: Agent, app: Any) -> None:
        self.agent = agent
        self._stopping = False
        self._firsts: dict[Any, int] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        # One thread: batches of a group never overlap, so their order is the log's.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=agent.group)
        self.app = app
        topic = batches_of(self.app, agent.topics)
        self.app.agent(topic, name=agent.group, concurrency=1)(self._consume)

    async def finish(self) -> None:
        """Let the batch in hand be finished, within reason; take no other."""
        self._stopping = True
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("batch left unacknowledged", group=self.agent.group)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def measure_lag(self) -> None:
        """How far this process is behind in the partitions it has."""
        consumer = self.app.consumer
        lags: dict[str, int] = dict.fromkeys(self.agent.topics, 0)
        assigned = list(consumer.assignment())
        committed = {one: consumer._committed_offset.get(one) for one in assigned}
        self._firsts = {one: first for one, first in self._firsts.items() if one in committed}
        unknown = [one for one in assigned if committed[one] is None and one not in self._firsts]
        if unknown:
            self._firsts |= await consumer.earliest_offsets(*unknown)
        silent = [one for one in assigned if consumer.highwater(one) is None]
        ends = await consumer.highwaters(*silent) if silent else {}
        for one in assigned:
            lags[one.topic] = lags.get(one.topic, 0) + behind(
                consumer.highwater(one) if one not in ends else ends[one],
                committed[one],
                self._firsts.get(one),
                consumer._read_offset.get(one),
                await consumer.position(one),
            )
        for topic, lag in lags.items():
            _lag.labels(self.agent.group, topic).set(lag)

    async def _consume(self, stream: Any) -> None:
        async for batch in stream.noack_take(_BATCHES, within=_WITHIN_SECONDS):
            if self._stopping:
                continue  # not acknowledged: it is delivered again after the restart
            self._idle.clear()
            began = time.perf_counter()
            try:
                handled = await self._process(batch)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - the process's boundary
                _hopeless(self.agent.group, error)
            finally:
                self._idle.set()
            _seconds.labels(self.agent.group).observe(time.perf_counter() - began)
            _handled.labels(self.agent.group).inc(handled)

    async def _process(self, batch: Sequence[Any]) -> int:
        """Handle, send, acknowledge; the number of records."""
        messages = [record for event in batch for record in event.message.value]
        records = await self._patiently(self._decide, messages)
        pending = records
        while pending:
            pending = await self._send(pending)
        for event in batch:
            event.ack()
        _sent.labels(self.agent.group).inc(len(records))
        return len(messages)

    async def _patiently(
        self, decide: Callable[[Sequence[Any], bool], list[Record]], messages: Sequence[Any]
    ) -> list[Record]:
        """Try again in place while the failure is one that passes."""
        loop = asyncio.get_running_loop()
        began, pause, failures = time.monotonic(), _FIRST_PAUSE, 0
        while True:
            suspicious = failures >= _SUSPICIOUS_AFTER
            try:
                return await loop.run_in_executor(self._thread, decide, messages, suspicious)
            except (FlywheelError, ConnectionError, TimeoutError) as error:
                passing = error.retryable if isinstance(error, FlywheelError) else True
                if not passing or time.monotonic() - began > _GIVE_UP_SECONDS:
                    raise
                failures += 1
                _retries.labels(self.agent.group).inc()
                _log.warning(
                    "batch failed, trying again",
                    group=self.agent.group,
                    events=len(messages),
                    failures=failures,
                    reason=f"{type(error).__name__}: {error}",
                )
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _decide(self, messages: Sequence[Any], suspicious: bool) -> list[Record]:
        """Turn bytes into the records to send, in the agent's thread."""
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
        outcome = handle_batch(self._handle, events, suspicious=suspicious)
        rejected += [(origin[id(event)], error, event.task) for event, error in outcome.rejected]
        letters = []
        for message, error, task in rejected:
            letter = letter_of(message, self.agent.group, error, task)
            letters.append(record_of_letter(letter))
            _dead.labels(self.agent.group, error.code).inc()
            _log.warning(
                "dead-lettered",
                group=self.agent.group,
                where=f"{message.topic}/{message.partition}/{message.offset}",
                code=error.code,
                reason=letter.reason,
            )
        return outcome.produced + letters

    def _handle(self, events: Sequence[Event]) -> list[Record]:
        """The records to send; an event that causes one no topic takes is found and rejected."""
        return [encode(event) for event in self.agent.handle(events)]

    async def _send(self, records: Sequence[Record]) -> list[Record]:
        """Send all and await every broker's acknowledgement; returns what is to be sent again.

        With a record that its topic does not take, Kafka refuses what shares its batch: each of
        them goes again by itself, and what is refused alone becomes a dead letter.
        """
        began = time.monotonic()
        results = await asyncio.gather(*[await self._begin(one) for one in records])
        refused = [one for one, error in zip(records, results, strict=True) if is_refusal(error)]
        failed = [
            one
            for one, error in zip(records, results, strict=True)
            if error is not None and not is_refusal(error) and self._passes(one, error)
        ]
        for record in refused:
            error = await (await self._begin(record))
            if is_refusal(error):
                failed.append(self._letter(record, error))
            elif error is not None and self._passes(record, error):
                failed.append(record)
        if failed:
            _log.warning("records not acknowledged, sending again", records=len(failed))
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
        return failed

    async def _begin(self, record: Record) -> Awaitable[BaseException | None]:
        """Hand a record to the client; to be awaited, what went wrong with it."""
        try:
            sent = await self.app.producer.send(
                record.topic, record.key, record.value, None, None, list(record.headers)
            )
        except Exception as error:  # noqa: BLE001 - judged by the caller, as what comes later is
            return _outcome(error)
        return _outcome(sent)

    def _passes(self, record: Record, error: BaseException) -> bool:
        """True when the same record may be taken another time; raises otherwise."""
        if getattr(error, "retriable", False):
            return True
        raise BrokerError(f"Kafka refused a record of {record.topic}: {error!r}") from error

    def _letter(self, record: Record, error: BaseException | None) -> Record:
        letter = letter_of_refused(record, self.agent.group, str(error))
        _dead.labels(self.agent.group, letter.code).inc()
        _log.error("record refused, kept as a dead letter", topic=record.topic, why=str(error))
        return record_of_letter(letter)


async def _outcome(sent: Awaitable[Any] | Exception) -> BaseException | None:
    if isinstance(sent, Exception):
        return sent
    try:
        await sent
    except Exception as error:  # noqa: BLE001 - judged by the caller
        return error
    return None


def _headers(message: Any) -> Mapping[str, bytes | None]:
    return dict(message.headers) if message.headers else {}
