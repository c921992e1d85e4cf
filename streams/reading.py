"""Reading a topic from its beginning to its present end, once, without a consumer group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flywheel.errors import BrokerError
from streams import connection
from streams.clients import made
from streams.odd_headers import read_any_header

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings


def read_topic(
    kafka: KafkaSettings,
    topic: str,
    until: Mapping[int, int] | None = None,
    patience: float = 30.0,
) -> Iterator[Any]:
    """Every record (kafka-python's) below the end, or below ``until`` (partition → offset).

    Raises BrokerError when Kafka does not answer, or nothing comes for ``patience`` seconds.
    """
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    connection.require_listener(kafka)
    read_any_header()
    try:
        consumer = made(
            KafkaConsumer,
            **connection.kafka_python(kafka, "flywheel-reader"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
    except (KafkaError, OSError) as error:
        raise BrokerError(f"Kafka at {kafka.servers} does not answer: {error}") from error
    try:
        numbers = consumer.partitions_for_topic(topic) or set()
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        if not partitions:
            return
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        if until is not None:
            ends = {p: min(end, until.get(p.partition, 0)) for p, end in ends.items()}
        deadline = time.monotonic() + patience
        while any(consumer.position(p) < end for p, end in ends.items()):
            batch = consumer.poll(timeout_ms=500, max_records=5000)
            if batch:
                deadline = time.monotonic() + patience
            elif time.monotonic() > deadline:
                raise BrokerError(f"{topic} gave nothing for {patience:.0f} s")
            for partition, records in batch.items():
                yield from (record for record in records if record.offset < ends[partition])
    except KafkaError as error:
        raise BrokerError(f"{topic} cannot be read: {error}") from error
    finally:
        consumer.close()
