"""Reading topics up to their present end, whole or in part, once, without a consumer group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flywheel.contracts.positions import Gap
from flywheel.errors import BrokerError
from streams import connection
from streams.clients import made
from streams.odd_headers import read_any_header

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

_PATIENCE = 30.0


def read_topic(
    kafka: KafkaSettings,
    topic: str,
    until: Mapping[int, int] | None = None,
    patience: float = _PATIENCE,
) -> Iterator[Any]:
    """Every record (kafka-python's) below the end, or below ``until`` (partition → offset).

    Raises BrokerError when Kafka does not answer, or nothing comes for ``patience`` seconds.
    """
    with _consumer(kafka, topic) as consumer:
        places = _places(consumer, topic)
        ends = consumer.end_offsets(places) if places else {}
        if until is not None:
            ends = {p: min(end, until.get(p.partition, 0)) for p, end in ends.items()}
        yield from _read(consumer, {place: (0, end) for place, end in ends.items()}, patience)


def read_parts(
    kafka: KafkaSettings,
    topic: str,
    parts: Mapping[int, Sequence[Gap]],
    patience: float = _PATIENCE,
) -> Iterator[Any]:
    """Records (kafka-python's) of parts of a topic: partition → (first offset, the one after the
    last). What the log does not have, any more or yet, is passed over.

    Raises BrokerError as ``read_topic`` does.
    """
    with _consumer(kafka, topic) as consumer:
        places = [place for place in _places(consumer, topic) if parts.get(place.partition)]
        for turn in range(max((len(some) for some in parts.values()), default=0)):
            spans = {
                place: parts[place.partition][turn]
                for place in places
                if turn < len(parts[place.partition])
            }
            yield from _read(consumer, spans, patience)


@contextmanager
def _consumer(kafka: KafkaSettings, topic: str) -> Iterator[Any]:
    from kafka import KafkaConsumer
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
        yield consumer
    except KafkaError as error:
        raise BrokerError(f"{topic} cannot be read: {error}") from error
    finally:
        consumer.close()


def _places(consumer: Any, topic: str) -> list[Any]:
    from kafka import TopicPartition

    numbers = consumer.partitions_for_topic(topic) or set()
    return [TopicPartition(topic, number) for number in sorted(numbers)]


def _read(consumer: Any, spans: Mapping[Any, Gap], patience: float) -> Iterator[Any]:
    if not spans:
        return
    consumer.assign(list(spans))
    firsts = consumer.beginning_offsets(list(spans))
    lasts = consumer.end_offsets(list(spans))
    ends = {place: min(end, lasts[place]) for place, (_, end) in spans.items()}
    for place, (begin, _) in spans.items():
        consumer.seek(place, max(begin, firsts[place]))
    deadline = time.monotonic() + patience
    while any(consumer.position(place) < end for place, end in ends.items()):
        batch = consumer.poll(timeout_ms=500, max_records=5000)
        if batch:
            deadline = time.monotonic() + patience
        elif time.monotonic() > deadline:
            names = ", ".join(sorted({place.topic for place in spans}))
            raise BrokerError(f"{names} gave nothing for {patience:.0f} s")
        for place, records in batch.items():
            yield from (record for record in records if record.offset < ends[place])
