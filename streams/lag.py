"""How many records each agent has not handled yet, asked of the broker and not of the worker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from flywheel.errors import BrokerError
from streams import connection
from streams.agents import evidence, labels, review, triage
from streams.behind import behind
from streams.reconcile import committed_offsets

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

_LOOK_SECONDS = 0.2
AGENTS: Mapping[str, tuple[str, ...]] = {
    module.GROUP: module.TOPICS for module in (triage, review, labels, evidence)
}


def agent_lag(
    kafka: KafkaSettings, agents: Mapping[str, Sequence[str]] = AGENTS, patience: float = 3.0
) -> dict[str, int]:
    """Consumer group → records above its committed offsets, over all topics that it reads.

    Raises BrokerError when Kafka does not answer.
    """
    committed = {group: committed_offsets(kafka, group, patience) for group in agents}
    logs = _logs(kafka, {topic for topics in agents.values() for topic in topics})
    return {
        group: sum(
            behind(end, committed[group].get(place), first, None, None)
            for place, (first, end) in logs.items()
            if place[0] in topics
        )
        for group, topics in agents.items()
    }


def handled_all(
    kafka: KafkaSettings, group: str, topics: Sequence[str], timeout: float, patience: float = 3.0
) -> bool:
    """Whether a group has handled, within ``timeout`` seconds, all that is now in these topics.

    Raises BrokerError when Kafka does not answer.
    """
    logs = _logs(kafka, topics)
    deadline = time.monotonic() + timeout
    while True:
        committed = committed_offsets(kafka, group, patience)
        if all(
            behind(end, committed.get(place), first, None, None) == 0
            for place, (first, end) in logs.items()
        ):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_SECONDS)


def _logs(kafka: KafkaSettings, topics: Iterable[str]) -> dict[tuple[str, int], tuple[int, int]]:
    """(topic, partition) → the offset of its oldest record, and the one after its last."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    connection.require_listener(kafka)
    try:
        consumer = KafkaConsumer(**connection.kafka_python(kafka, "flywheel-lag"), group_id=None)
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in sorted(topics)
                for number in consumer.partitions_for_topic(topic) or ()
            ]
            firsts = consumer.beginning_offsets(partitions) if partitions else {}
            ends = consumer.end_offsets(partitions) if partitions else {}
        finally:
            consumer.close()
    except (KafkaError, OSError) as error:
        raise BrokerError(f"Kafka at {kafka.servers} does not answer: {error}") from error
    return {(place.topic, place.partition): (firsts[place], end) for place, end in ends.items()}
