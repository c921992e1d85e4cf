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
from flywheel.errors import BrokerError, RecordRefused
from streams import connection
from streams.topics import LARGEST_RECORD_BYTES

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

_published = Counter("flywheel_published_records", "Records acknowledged by Kafka.", ["topic"])


# Kafka's numbers of what it says of a record that it will never take: too large, alone or with
# others; no topic's name; not allowed; not valid in this topic.
_REFUSALS = {10, 18, 17, 29, 87}


class KafkaPublisher:
    """The Publisher of every process but the worker's agents. It connects at its first use."""

    def __init__(self, kafka: KafkaSettings, client_id: str, timeout: float = 30.0) -> None:
        self._kafka = kafka
        self._client_id = client_id
        self._timeout = timeout
        self._lock = Lock()
        self._producer: Any = None

    def publish(self, events: Sequence[Event]) -> None:
        """Send and wait for every acknowledgement. Raises BrokerError when one does not come.

        After an error any part of ``events`` may have been stored: publish all of them again,
        readers tell doubles by their event ids.
        """
        self.publish_records([encode(event) for event in events])

    def publish_records(self, records: Sequence[Record]) -> None:
        """The same for encoded records."""
        from kafka.errors import KafkaError

        if not records:
            return
        if any(value is None for record in records for _, value in record.headers):
            self._publish_exactly(records)
            return
        producer = self._connected()
        deadline = time.monotonic() + self._timeout
        try:
            futures = [
                producer.send(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    headers=[(name, value) for name, value in record.headers],
                )
                for record in records
            ]
            for future in futures:
                future.get(timeout=max(0.001, deadline - time.monotonic()))
        except (KafkaError, RuntimeError) as error:
            kind = _kind_of(error)
            # A broker that refuses is there, and the client can take its leave.
            self._discard(producer, seconds=5 if kind is RecordRefused else 0)
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
            producer.close(timeout=5)

    def _connected(self) -> Any:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        with self._lock:
            if self._producer is None:
                connection.require_listener(self._kafka)
                try:
                    self._producer = KafkaProducer(
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

    def _publish_exactly(self, records: Sequence[Record]) -> None:
        """By the other client: kafka-python sends no header without a value."""
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
                for record in records:
                    await producer.send_and_wait(
                        record.topic, record.value, record.key, headers=list(record.headers)
                    )
            finally:
                await producer.stop()

        connection.require_listener(self._kafka)
        try:
            asyncio.run(asyncio.wait_for(send(), self._timeout))
        except (KafkaError, TimeoutError) as error:
            raise _kind_of(error)(
                f"Kafka at {self._kafka.servers} did not acknowledge {len(records)} record(s): "
                f"{type(error).__name__}: {error}"
            ) from error

    def _discard(self, producer: Any, seconds: float) -> None:
        """An idempotent producer that failed may refuse for ever after: the next call gets anew."""
        from kafka.errors import KafkaError

        with self._lock:
            if self._producer is producer:
                self._producer = None
        try:
            producer.close(timeout=seconds)
        except KafkaError:
            # kafka-python flushes first, and closes nothing when that takes too long: its
            # thread would go on, and its finalizer raise. What is in flight is given up first.
            producer._sender.force_close()
            with suppress(KafkaError):
                producer.close(timeout=5)


def _kind_of(error: Exception) -> type[BrokerError]:
    """Both clients' errors have Kafka's number where the broker or its limits gave one."""
    return RecordRefused if getattr(error, "errno", None) in _REFUSALS else BrokerError
