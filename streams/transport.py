"""A Faust transport whose consumer hands its agent whole fetched batches.

Faust carries each record by itself from the fetcher to the agent, and acknowledges each by itself:
that is most of what an agent costs. This driver delivers what was fetched of one partition as one
message, whose value are the records; acknowledging it acknowledges them all. Subscribing,
rebalancing, flow control and committing stay Faust's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

import faust
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage

SCHEME = "flywheel"
# Records in one message: what an agent handles in one transaction.
MOST_RECORDS = 2000


class BatchSchema(faust.Schema):  # type: ignore[misc]
    """Records go to the agent as they were fetched."""

    def loads_key(self, _app: Any, _message: Any, **_: Any) -> Any:
        """No batch has a key."""
        return None

    def loads_value(self, _app: Any, message: Any, **_: Any) -> Any:
        """The records."""
        return message.value


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer on aiokafka, a batch at a time.

    A batch has the offset of its last record. Batches of a partition are acknowledged in their
    order, as its agent handles them: whatever lies below an acknowledged one is done.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done: dict[TP, int] = {}

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109
        """Fetch from the server; each batch with its partition."""
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            try:
                await self.perform_seek()
            except Exception as error:  # noqa: BLE001 - what was fetched is fetched again
                self.log.warning(f"not sought back while no records were taken: {error}")
            return
        for tp, batch in _batches(records):
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if active is None or tp in active or tp in self._buffered_partitions:
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                yield tp, _message(tp, batch, generation)

    def ack(self, message: Any) -> bool:
        """The records of a batch are done."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        self._done[message.tp] = max(self._done.get(message.tp, 0), message.offset + 1)
        return True

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget what was done of partitions that are someone else's."""
        for tp in revoked:
            self._done.pop(tp, None)
        await super().on_partitions_revoked(revoked)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for tp in list(self._done):
            if topics is None or tp in topics or tp.topic in topics:
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        return self._done.get(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets between batches need no note: a batch stands for all below its last record."""


class Transport(driver.Transport):  # type: ignore[misc]
    """``flywheel://host:port``: Faust's aiokafka driver with the consumer above."""

    Consumer = Consumer


def register() -> None:
    """Have Faust know the URL scheme; again changes nothing."""
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"


def _batches(records: Mapping[Any, list[Any]]) -> Iterable[tuple[TP, list[Any]]]:
    """What was fetched, in turn over partitions so that none waits for all of another's."""
    parts = {TP(*tp): fetched for tp, fetched in records.items()}
    start = 0
    while parts:
        for tp, fetched in parts.items():
            yield tp, fetched[start : start + MOST_RECORDS]
        start += MOST_RECORDS
        parts = {tp: fetched for tp, fetched in parts.items() if len(fetched) > start}


def _message(tp: TP, batch: list[Any], generation: int) -> ConsumerMessage:
    last = batch[-1]
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
