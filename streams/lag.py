"""How many records each agent has not handled yet, asked of the broker and not of the worker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flywheel.errors import BrokerError
from streams import connection
from streams.agents import evidence, labels, review, triage
from streams.behind import waiting
from streams.clients import made
from streams.groups import committed_offsets
from streams.odd_headers import read_any_header

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

_LOOK_SECONDS = 0.2
# As many offsets at the end of a partition are looked at, one by one, for what is a record.
_TAIL = 100
AGENTS: Mapping[str, tuple[str, ...]] = {
    module.GROUP: module.TOPICS for module in (triage, review, labels, evidence)
}

_Place = tuple[str, int]


class _Log(NamedTuple):
    """A partition: the offset of its oldest record, the one after its last, and the offsets of the
    records from ``tail`` on (None where nobody had to look)."""

    first: int
    end: int
    tail: int
    records: tuple[int, ...] | None = None

    def behind(self, committed: int | None) -> int:
        """``streams.behind.waiting``."""
        return waiting(self.end, committed, self.first, self.tail, self.records)


def agent_lag(
    kafka: KafkaSettings, agents: Mapping[str, Sequence[str]] = AGENTS, patience: float = 3.0
) -> dict[str, int]:
    """Consumer group → records above its committed offsets, over all topics that it reads.

    Raises BrokerError when Kafka does not answer.
    """
    committed = {group: committed_offsets(kafka, group, patience) for group in agents}
    topics = {topic for read in agents.values() for topic in read}
    logs = _logs(kafka, topics, list(committed.values()), patience)
    return {
        group: sum(
            log.behind(committed[group].get(place))
            for place, log in logs.items()
            if place[0] in read
        )
        for group, read in agents.items()
    }


def handled_all(
    kafka: KafkaSettings, group: str, topics: Sequence[str], timeout: float, patience: float = 3.0
) -> bool:
    """Whether a group has handled, within ``timeout`` seconds, all that is now in these topics.

    Raises BrokerError when Kafka does not answer.
    """
    committed = committed_offsets(kafka, group, patience)
    logs = _logs(kafka, topics, [committed], patience)
    deadline = time.monotonic() + timeout
    while any(log.behind(committed.get(place)) for place, log in logs.items()):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_SECONDS)
        committed = committed_offsets(kafka, group, patience)
    return True


def _logs(
    kafka: KafkaSettings,
    topics: Iterable[str],
    committed: Sequence[Mapping[_Place, int]],
    patience: float,
) -> dict[_Place, _Log]:
    """The partitions of these topics; their records where a group is behind by its offsets."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    connection.require_listener(kafka)
    read_any_header()
    try:
        consumer = made(
            KafkaConsumer,
            **connection.kafka_python(kafka, "flywheel-lag"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in sorted(topics)
                for number in consumer.partitions_for_topic(topic) or ()
            ]
            firsts = consumer.beginning_offsets(partitions) if partitions else {}
            ends = consumer.end_offsets(partitions) if partitions else {}
            logs = {
                place: _Log(firsts[place], end, max(firsts[place], end - _TAIL))
                for place, end in ends.items()
            }
            open_places = [
                place
                for place, log in logs.items()
                if any(
                    log.behind(of_group.get((place.topic, place.partition)))
                    for of_group in committed
                )
            ]
            tails = _records(consumer, {place: logs[place] for place in open_places}, patience)
        finally:
            consumer.close()
    except (KafkaError, OSError) as error:
        raise BrokerError(f"Kafka at {kafka.servers} does not answer: {error}") from error
    logs |= {place: logs[place]._replace(records=records) for place, records in tails.items()}
    return {(place.topic, place.partition): log for place, log in logs.items()}


def _records(
    consumer: Any, logs: Mapping[Any, _Log], patience: float
) -> dict[Any, tuple[int, ...]]:
    """The offsets of the records in each partition's tail, of those read to their ends in time:
    marks of transactions take offsets too, and no client is given them."""
    if not logs:
        return {}
    consumer.assign(list(logs))
    for place, log in logs.items():
        consumer.seek(place, log.tail)
    offsets: dict[Any, list[int]] = {place: [] for place in logs}
    deadline = time.monotonic() + patience
    reading = set(logs)
    while reading and time.monotonic() < deadline:
        for place, records in consumer.poll(timeout_ms=200, max_records=1000).items():
            offsets[place] += [record.offset for record in records]
        for place in [one for one in reading if consumer.position(one) >= logs[one].end]:
            reading.remove(place)
            consumer.pause(place)
    return {
        place: tuple(offset for offset in numbers if offset < logs[place].end)
        for place, numbers in offsets.items()
        if place not in reading
    }
