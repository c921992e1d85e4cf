"""How many records each agent has not handled yet, asked of the broker and not of the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flywheel.errors import BrokerError
from streams import connection
from streams.agents import evidence, labels, review, triage
from streams.reconcile import committed_offsets

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

AGENTS: Mapping[str, tuple[str, ...]] = {
    module.GROUP: module.TOPICS for module in (triage, review, labels, evidence)
}


def agent_lag(
    kafka: KafkaSettings, agents: Mapping[str, Sequence[str]] = AGENTS, patience: float = 3.0
) -> dict[str, int]:
    """Consumer group → records above its committed offsets, over all topics that it reads.

    Raises BrokerError when Kafka does not answer.
    """
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    committed = {group: committed_offsets(kafka, group, patience) for group in agents}
    connection.require_listener(kafka)
    try:
        consumer = KafkaConsumer(**connection.kafka_python(kafka, "flywheel-lag"), group_id=None)
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in sorted({topic for topics in agents.values() for topic in topics})
                for number in consumer.partitions_for_topic(topic) or ()
            ]
            ends = consumer.end_offsets(partitions) if partitions else {}
        finally:
            consumer.close()
    except (KafkaError, OSError) as error:
        raise BrokerError(f"Kafka at {kafka.servers} does not answer: {error}") from error
    return {
        group: sum(
            max(0, end - committed[group].get((place.topic, place.partition), 0))
            for place, end in ends.items()
            if place.topic in topics
        )
        for group, topics in agents.items()
    }
