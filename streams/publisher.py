"""Publishing to Kafka: idempotent, acknowledged by all in-sync replicas, safe between threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter

from flywheel.contracts.codec import Record, encode
from flywheel.contracts.events import Event
from flywheel.errors import BrokerError, ForeignBroker, RecordRefused
from streams import connection
from streams.clients import made
from streams.topics import LARGEST_RECORD_BYTES

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

_published = Counter("flywheel_published_records", "Records acknowledged by Kafka.", ["topic"])


# Kafka's numbers of what it says of a record that it will never take: too large, alone or with
# others; no topic's name; not valid in this topic. A writer that is not allowed (29) is no fault of
# its records: they wait.
_REFUSALS = {10, 18, 17, 87}

# For acknowledgements that are still to come when a publisher is closed.
CLOSING_SECONDS = 5.0
# How long a client that stays may go on before it is looked again whose broker answers.
_LOOK_SECONDS = 1.0


class KafkaPublisher:
    """The Publisher of every process but the worker's agents. It connects at its first use."""

    def __init__(self, kafka: KafkaSettings, client_id: str, timeout: float = 30.0) -> None:
        """``timeout``: seconds for all acknowledgements of a call."""
        self._kafka = kafka
        self._client_id = client_id
        self._timeout = timeout
        self._lock = Lock()
        self._producer: Any = None
        self._looked = 0.0

    def publish(self, events: Sequence[Event]) -> None:
        """Send and wait for every acknowledgement. Raises BrokerError when one does not come.

        After an error any part of ``events`` may have been stored: publish all of them again,
        readers tell doubles by their event ids.
        """
        self.publish_records([encode(event) for event in events])

    def publish_records(self, records: Sequence[Record]) -> None:
        """The same for encoded records. RecordRefused names those that Kafka takes not even alone;
        all others are stored then."""
        if not records:
            return
        stored: set[int] = set()
        try:
            self._publish(records, stored)
            return
        except RecordRefused:
            # With it Kafka refuses what shares its batch, and the producer is of no use any more.
            left = [number for number in range(len(records)) if number not in stored]
        refused = {}
        for number in left:
            try:
                self._publish([records[number]], set())
            except RecordRefused as error:
                refused[number] = str(error)
        if refused:
            first = next(iter(refused.values()))
            raise RecordRefused(
                f"{len(refused)} of {len(records)} record(s) refused, the others are stored: "
                f"{first}",
                refused,
            )

    def _publish(self, records: Sequence[Record], stored: set[int]) -> None:
        """Send and wait; after an error ``stored`` has the numbers of those acknowledged."""
        from kafka.errors import KafkaError

        if any(value is None for record in records for _, value in record.headers):
            self._publish_exactly(records, stored)
            return
        self._require_own_broker()
        producer = self._connected()
        deadline = time.monotonic() + self._timeout
        futures: list[Any] = []
        try:
            for record in records:
                futures.append(  # noqa: PERF401 - those before an error count
                    producer.send(
                        record.topic,
                        value=record.value,
                        key=record.key,
                        headers=[(name, value) for name, value in record.headers],
                    )
                )
            for future in futures:
                future.get(timeout=max(0.001, deadline - time.monotonic()))
        except (KafkaError, RuntimeError) as error:
            kind = RecordRefused if is_refusal(error) else BrokerError
            # A broker that refuses is there, and the client can take its leave.
            self._discard(producer, seconds=5 if kind is RecordRefused else 0)
            stored.update(number for number, one in enumerate(futures) if one.succeeded())
            raise kind(
                f"Kafka at {self._kafka.servers} did not acknowledge {len(records)} record(s) "
                f"within {self._timeout:.0f} s: {type(error).__name__}: {error}"
            ) from error
        for record in records:
            _published.labels(record.topic).inc()

    def close(self) -> None:
        """Flush and release the connection; a later publish opens a new one."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            _end(producer, seconds=CLOSING_SECONDS)

    def _require_own_broker(self) -> None:
        """Let go of a client whose broker went and whose port another workspace's took since."""
        producer = self._producer
        if producer is None or time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        try:
            connection.require_listener(self._kafka)
        except ForeignBroker:
            self._discard(producer, seconds=0)
            raise
        except BrokerError:
            return  # it is away: the client waits for it
        self._looked = time.monotonic()

    def _connected(self) -> Any:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        with self._lock:
            if self._producer is None:
                connection.require_listener(self._kafka)
                try:
                    self._producer = made(
                        KafkaProducer,
                        **connection.kafka_python(self._kafka, self._client_id),
                        enable_idempotence=True,
                        acks="all",
                        linger_ms=1,
                        max_request_size=LARGEST_RECORD_BYTES,
                        max_block_ms=int(self._timeout * 1000),
                        delivery_timeout_ms=int(self._timeout * 1000),
                        request_timeout_ms=min(10_000, int(self._timeout * 500)),
                    )
                except (KafkaError, OSError) as error:
                    raise BrokerError(
                        f"Kafka at {self._kafka.servers} cannot be reached: {error}"
                    ) from error
            return self._producer

    def _publish_exactly(self, records: Sequence[Record], stored: set[int]) -> None:
        """Send by the other client: kafka-python sends no header without a value."""
        from aiokafka import AIOKafkaProducer
        from aiokafka.errors import KafkaError

        async def send() -> None:
            producer = AIOKafkaProducer(
                **connection.aiokafka(self._kafka, self._client_id),
                enable_idempotence=True,
                max_request_size=LARGEST_RECORD_BYTES,
            )
            await producer.start()
            try:
                for number, record in enumerate(records):
                    await producer.send_and_wait(
                        record.topic, record.value, record.key, headers=list(record.headers)
                    )
                    stored.add(number)
            finally:
                await producer.stop()

        connection.require_listener(self._kafka)
        try:
            asyncio.run(asyncio.wait_for(send(), self._timeout))
        except (KafkaError, TimeoutError) as error:
            kind = RecordRefused if is_refusal(error) else BrokerError
            raise kind(
                f"Kafka at {self._kafka.servers} did not acknowledge {len(records)} record(s): "
                f"{type(error).__name__}: {error}"
            ) from error

    def _discard(self, producer: Any, seconds: float) -> None:
        """An idempotent producer that failed may refuse for ever after: the next call gets anew."""
        with self._lock:
            if self._producer is producer:
                self._producer = None
        _end(producer, seconds)


def is_refusal(error: BaseException | None) -> bool:
    """Whether a client says that Kafka will never take this record. Each client's errors have
    Kafka's number where the broker or its limits gave one; Faust's have the client's as a cause."""
    while error is not None:
        if getattr(error, "errno", None) in _REFUSALS:
            return True
        error = error.__cause__
    return False


def _end(producer: Any, seconds: float) -> None:
    """Close a kafka-python producer, whatever it says: what was acknowledged is stored."""
    from kafka.errors import KafkaError

    try:
        producer.close(timeout=seconds)
    except KafkaError:
        # kafka-python flushes first, and closes nothing when that takes too long: its
        # thread would go on, and its finalizer raise. What is in flight is given up first.
        producer._sender.force_close()
        with suppress(KafkaError):
            producer.close(timeout=5)
