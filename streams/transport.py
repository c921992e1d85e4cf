"""A Faust transport whose consumer hands its agent whole fetched batches.

Faust carries each record by itself from the fetcher to the agent, and acknowledges each by itself:
that is most of what an agent costs. This driver delivers what was fetched of one partition as one
message, whose value are the records; acknowledging it acknowledges them all. Subscribing,
rebalancing, flow control and committing stay Faust's.

What is committed is what was acknowledged from the place on where reading began, without a hole,
in whatever order the acknowledgements come. Whatever was fetched and is not delivered after all (a
rebalance began meanwhile) is fetched again: reading goes back to what is committed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import faust
from faust.sensors import Monitor
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage
from mode import Service

from streams.batches import MOST_RECORDS

SCHEME = "flywheel"
# Delivered and not yet acknowledged, of all partitions together; above it nothing is fetched.
MOST_BYTES = 16 << 20
# Between two looks for a partition that is not got on with, which Faust calls slow after minutes.
_SLOW_SECONDS = 30.0
# What a record takes beyond its value.
_OVERHEAD_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition in the order of the log, as the client gives them.

    They are all that the log has from ``first``, the offset of the earliest, to below ``end``, and
    take about ``size`` bytes of memory.
    """

    topic: str
    partition: int
    records: list[Any]
    first: int
    end: int
    size: int


class Fetched(dict[TP, list[Any]]):
    """The records of one fetch by partition; where each goes on; and between which seeks it was."""

    def __init__(
        self, records: Mapping[Any, list[Any]], ends: Mapping[TP, int], epoch: int, generation: Any
    ) -> None:
        super().__init__({TP(*tp): found for tp, found in records.items() if found})
        self.ends = ends
        self.epoch = epoch
        self.generation = generation


@dataclass(slots=True)
class _Read:
    """A partition as it is read: delivered and not acknowledged, and the ends of what is."""

    pending: deque[tuple[ConsumerMessage, Batch]] = field(default_factory=deque)
    next: int | None = None
    done: int | None = None


class BatchSchema(faust.Schema):  # type: ignore[misc]
    """Records go to the agent as they were fetched."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002 - Faust's
        """No batch has a key."""
        return None

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:  # noqa: ARG002 - Faust's
        """The batch."""
        return message.value


class Sensor(Monitor):  # type: ignore[misc]
    """Faust's own figures without the means that it takes of them each second: nobody reads any."""

    @Service.task  # type: ignore[untyped-decorator]
    async def _sampler(self) -> None:
        """Nothing."""


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's thread around the client, which also says from where reading went on. What it is
    asked wakes it, so that it need not wake by itself."""

    @Service.task  # type: ignore[untyped-decorator]
    async def _thread_keepalive(self) -> None:
        """Nothing."""

    async def _keepalive2(self) -> None:
        """Nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Moves on when reading went to another place: what was fetched before is out of order.
        self.epoch = 0

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Partitions are someone else's."""
        self.epoch += 1
        await super().on_partitions_revoked(revoked)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go back to what is committed."""
        offsets: Mapping[TP, int] = await self.call_thread(self._seek_to_committed)
        return offsets

    async def _seek_to_committed(self) -> Mapping[TP, int]:
        consumer = self._ensure_consumer()
        try:
            offsets: dict[TP, int] = await consumer.seek_to_committed()
            # Where nothing is committed the client stays where it is.
            if unmoved := [tp for tp, offset in offsets.items() if not offset]:
                await consumer.seek_to_beginning(*unmoved)
        finally:
            # After the last seek: what was fetched between two of them comes again too.
            self.epoch += 1
        return offsets

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Fetched:
        records = await super()._fetch_records(consumer, *args, **kwargs)
        places = ((TP(*tp), _position(consumer, tp)) for tp in records)
        ends = {tp: position for tp, position in places if position is not None}
        return Fetched(records, ends, self.epoch, self.app.consumer_generation_id)

    def reading_at(self, tp: TP) -> int | None:
        """Where reading a partition goes on, as far as that is known; asks nobody."""
        return _position(self._ensure_consumer(), tp)


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer on aiokafka, a batch at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reads: dict[TP, _Read] = {}
        self._held = 0
        self._room = asyncio.Event()
        self._astray = False

    @Service.task  # type: ignore[untyped-decorator]
    async def _commit_livelock_detector(self) -> None:
        async for _ in self.itertimer(_SLOW_SECONDS, name="livelock"):
            if not self.app.rebalancing:
                await self.verify_all_partitions_active()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(
        self,
        timeout: float,  # noqa: ASYNC109 - Faust's
    ) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Fetch from the server; each batch with its partition."""
        fetched, _ = await self._wait_next_records(timeout)
        if self.should_stop:
            return
        if fetched and not self._in_order(fetched):
            self._astray = True
        if self._astray:
            await self._go_back()
            return
        for batch in _batches(fetched) if fetched else ():
            tp = TP(batch.topic, batch.partition)
            if not (self._in_order(fetched) and self._is_mine(tp)):
                self._astray = True
                return
            yield tp, self._given(tp, batch, fetched.generation)
        # Faust takes back what it was about to deliver when a rebalance begins.
        self._astray = bool(fetched) and not self._in_order(fetched)

    def ack(self, message: Any) -> bool:
        """The records of a batch are done."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        read = self._reads.get(message.tp)
        if read is None or all(one is not message for one, _ in read.pending):
            return False  # it comes again: reading went back meanwhile
        while read.pending and read.pending[0][0].acked:
            _, batch = read.pending.popleft()
            read.done = batch.end
            self._held -= batch.size
        if self._held < MOST_BYTES:
            self._room.set()
        return True

    def reading_at(self, tp: TP) -> int | None:
        """Where reading a partition goes on, as far as that is known; asks nobody."""
        position: int | None = self._thread.reading_at(tp)
        return position

    async def perform_seek(self) -> None:
        """Go back to what is committed, and begin to count from there."""
        # What goes astray from here on, in a fetch that ends before the last partition is sought,
        # was taken from where reading is to go on: it has to go back once more.
        self._astray = False
        await super().perform_seek()
        self._forget(list(self._reads))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget what was read of partitions that are someone else's."""
        self._forget(revoked)
        await super().on_partitions_revoked(revoked)

    async def _wait_next_records(
        self,
        timeout: float,  # noqa: ASYNC109 - Faust's
    ) -> tuple[Any, Any]:
        if self._held >= MOST_BYTES:
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._room.wait()
            return None, None
        found: tuple[Any, Any] = await super()._wait_next_records(timeout)
        return found

    async def _go_back(self) -> None:
        if not self.flow_active:
            return  # a rebalance: Faust goes back itself before the flow goes on
        if not self.assignment():
            self._astray = False
            return
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 - tried again before anything else is read
            self._astray = True
            self.log.warning(f"not back at what is committed yet: {error!r}")
            await self.sleep(0.5)

    def _in_order(self, fetched: Fetched) -> bool:
        """Whether what was fetched follows what was delivered before it."""
        return bool(
            self.flow_active
            and fetched.epoch == self._thread.epoch
            and fetched.generation == self.app.consumer_generation_id
        )

    def _is_mine(self, tp: TP) -> bool:
        return tp in self._get_active_partitions() or tp in self._buffered_partitions

    def _given(self, tp: TP, batch: Batch, generation: Any) -> ConsumerMessage:
        read = self._reads.setdefault(tp, _Read())
        if read.next is not None and batch.first < read.next:
            # Nobody sought: the log begins anew, and the client with it.
            self.log.warning(f"{tp} is read from offset {batch.first} on, it was at {read.next}")
            self._forget([tp])
            self._committed_offset[tp] = None
            read = self._reads.setdefault(tp, _Read())
        read.next = batch.end
        message = _message(tp, batch, generation)
        read.pending.append((message, batch))
        self._held += batch.size
        # Faust skips what is below the last offset it took: reading may have gone back since.
        self._read_offset[tp] = batch.records[-1].offset
        return message

    def _forget(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            read = self._reads.pop(tp, None)
            if read is not None:
                self._held -= sum(batch.size for _, batch in read.pending)
        self._room.set()

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for tp in list(self._reads):
            if topics is None or tp in topics or tp.topic in topics:
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        read = self._reads.get(tp)
        return read.done if read is not None else None


class Transport(driver.Transport):  # type: ignore[misc]
    """``flywheel://host:port``: Faust's aiokafka driver with the consumer above."""

    Consumer = Consumer


def register() -> None:
    """Have Faust know the URL scheme; again changes nothing."""
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"


def _position(consumer: Any, tp: Any) -> int | None:
    """Where aiokafka's consumer goes on in a partition; None where it has no place, or none yet."""
    subscription = consumer._subscription.subscription
    assignment: Any = subscription.assignment if subscription is not None else None
    with suppress(KeyError, AttributeError):  # not assigned by now
        state = assignment.state_value(tp)
        if state.has_valid_position:
            position: int = state.position
            return position
    return None


def _batches(fetched: Fetched) -> Iterator[Batch]:
    """What was fetched, in turn over partitions so that none waits for all of another's."""
    parts: dict[TP, list[Any]] = dict(fetched)
    start = 0
    while parts:
        stop = start + MOST_RECORDS
        for tp, records in parts.items():
            part = records[start:stop]
            # Behind the last record may lie offsets that are none, such as marks of transactions.
            beyond = fetched.ends.get(tp, 0) if stop >= len(records) else 0
            values = sum(max(0, record.serialized_value_size) for record in part)
            yield Batch(
                tp.topic,
                tp.partition,
                part,
                first=part[0].offset,
                end=max(part[-1].offset + 1, beyond),
                size=values + _OVERHEAD_BYTES * len(part),
            )
        start = stop
        parts = {tp: records for tp, records in parts.items() if len(records) > start}


def _message(tp: TP, batch: Batch, generation: Any) -> ConsumerMessage:
    last = batch.records[-1]
    return ConsumerMessage(
        tp.topic,
        tp.partition,
        last.offset,
        last.timestamp / 1000.0,
        last.timestamp_type,
        (),
        None,
        batch,
        None,
        0,
        0,
        tp,
        generation_id=generation,
    )
