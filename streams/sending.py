"""What an agent makes of a batch, on its way out until the broker has it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Sequence
from typing import Any

import structlog

from flywheel.contracts.codec import Record
from flywheel.errors import BrokerError
from streams.dead_letters import letter_of_refused, record_of_letter
from streams.figures import dead_lettered
from streams.partitions import partitions_of
from streams.publisher import is_refusal
from streams.topics import LARGEST_RECORD_BYTES

_log = structlog.get_logger(__name__)

# A record, and what went wrong with it, or None.
Outcome = tuple[Record, BaseException | None]


class Sender:
    """Sends by the client under the producer of a Faust app, which has a future for each batch
    instead of one for each record."""

    def __init__(self, group: str, app: Any) -> None:
        self._group = group
        self._app = app

    async def send(self, records: Sequence[Record]) -> None:
        """Return when the broker has acknowledged all, or a dead letter in the stead of one that
        its topic does not take. Raises BrokerError for what no other try would mend."""
        pending = records
        while pending:
            pending = await self._try(pending)

    async def _try(self, records: Sequence[Record]) -> list[Record]:
        """Send all and await every broker's acknowledgement; returns what is to be sent again.

        With a record that its topic does not take, Kafka refuses what shares its batch: each of
        them goes again by itself, and what is refused alone becomes a dead letter.
        """
        began = time.monotonic()
        outcomes = await self._send_batches(records)
        refused = [record for record, error in outcomes if is_refusal(error)]
        failed = [
            record
            for record, error in outcomes
            if error is not None and not is_refusal(error) and self._passes(record, error)
        ]
        for record in refused:
            error = await self._send_alone(record)
            if is_refusal(error):
                failed.append(self._letter(record, error))
            elif error is not None and self._passes(record, error):
                failed.append(record)
        if failed:
            _log.warning("records not acknowledged, sending again", records=len(failed))
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
        return failed

    async def _send_batches(self, records: Sequence[Record]) -> list[Outcome]:
        """Send records in batches by partition, in their order within each."""
        topics: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            topics[record.topic].append(record)
        sent = await asyncio.gather(*(self._send_topic(*one) for one in topics.items()))
        return [outcome for of_topic in sent for outcome in of_topic]

    async def _send_topic(self, topic: str, records: Sequence[Record]) -> list[Outcome]:
        try:
            client = self._app.producer._ensure_producer()
            count = len(await client.partitions_for(topic))
        except Exception as error:  # noqa: BLE001 - judged by the caller, as what comes later is
            return [(record, error) for record in records]
        partitions: dict[int, list[Record]] = defaultdict(list)
        places = partitions_of([record.key for record in records], count)
        for record, partition in zip(records, places, strict=True):
            partitions[partition].append(record)
        sent = await asyncio.gather(
            *(self._send_partition(client, topic, *one) for one in partitions.items())
        )
        return [outcome for of_partition in sent for outcome in of_partition]

    async def _send_partition(
        self, client: Any, topic: str, partition: int, records: Sequence[Record]
    ) -> list[Outcome]:
        """Send records in batches, each on its way as soon as it is full."""
        # The client sees of a record that is sent alone whether it is too large for any request.
        too_large = [record for record in records if _bytes_of(record) > LARGEST_RECORD_BYTES]
        outcomes = [(record, await self._send_alone(record)) for record in too_large]
        sent: list[tuple[list[Record], Awaitable[Any]]] = []
        left = deque(record for record in records if _bytes_of(record) <= LARGEST_RECORD_BYTES)
        while left:
            batch, some = client.create_batch(), list[Record]()
            while left and _append(batch, left[0]):
                some.append(left.popleft())
            batch.close()
            try:
                sent.append((some, await client.send_batch(batch, topic, partition=partition)))
            except Exception as error:  # noqa: BLE001 - judged by the caller
                outcomes += [(record, error) for record in some]
        for some, acknowledged in sent:
            problem = await _outcome(acknowledged)
            outcomes += [(record, problem) for record in some]
        return outcomes

    async def _send_alone(self, record: Record) -> BaseException | None:
        """Send a record in no company; returns what went wrong with it."""
        try:
            sent = await self._app.producer.send(
                record.topic, record.key, record.value, None, None, list(record.headers)
            )
        except Exception as error:  # noqa: BLE001 - judged by the caller
            return error
        return await _outcome(sent)

    def _passes(self, record: Record, error: BaseException) -> bool:
        """True when the same record may be taken another time; raises otherwise."""
        if getattr(error, "retriable", False):
            return True
        raise BrokerError(f"Kafka refused a record of {record.topic}: {error!r}") from error

    def _letter(self, record: Record, error: BaseException | None) -> Record:
        letter = letter_of_refused(record, self._group, str(error))
        dead_lettered.labels(self._group, letter.code).inc()
        _log.error("record refused, kept as a dead letter", topic=record.topic, why=str(error))
        return record_of_letter(letter)


def _append(batch: Any, record: Record) -> bool:
    """Whether the batch has room for a record, which is in it then."""
    taken = batch.append(
        timestamp=None, key=record.key, value=record.value, headers=list(record.headers)
    )
    return taken is not None


def _bytes_of(record: Record) -> int:
    """About how many bytes a record takes."""
    return len(record.key or b"") + len(record.value or b"")


async def _outcome(sent: Awaitable[Any]) -> BaseException | None:
    try:
        await sent
    except Exception as error:  # noqa: BLE001 - judged by the caller
        return error
    return None
