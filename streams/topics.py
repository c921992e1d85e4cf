"""Topics: made before anything reads or writes them, by the table in ``contracts.events``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog

from flywheel.contracts.events import TOPICS, TopicSpec
from flywheel.errors import BrokerError, ForeignBroker
from streams import connection
from streams.clients import made

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

# The largest record of any topic: what a producer must be allowed to send.
LARGEST_RECORD_BYTES = max(topic.max_bytes for topic in TOPICS)

# The broker unpacks what comes compressed: no record is larger than it looks, and none needs a
# codec that a reader has not got. And it dates what comes by its own clock, not the writer's.
_GUARDS = {"compression.type": "uncompressed", "message.timestamp.type": "LogAppendTime"}

# Longer than a broker needs to restart; the supervisor starts a process again after it.
BROKER_PATIENCE = 60.0

_log = structlog.get_logger(__name__)


def partitions(spec: TopicSpec, kafka: KafkaSettings) -> int:
    """How many partitions a topic gets: topics keyed by sample follow kafka.partitions."""
    return kafka.partitions if spec.partitions > 1 else spec.partitions


def settings_of(spec: TopicSpec) -> dict[str, str]:
    """A topic's own settings, by Kafka's names."""
    settings = {"cleanup.policy": "compact" if spec.compacted else "delete"}
    hours = spec.retention_hours
    settings["retention.ms"] = "-1" if hours is None else str(hours * 3_600_000)
    settings["max.message.bytes"] = str(spec.max_bytes)
    return settings | _GUARDS


def ensure_topics(kafka: KafkaSettings) -> None:
    """Make every topic that is not there yet; those that are keep the layout they have.

    The local broker's, which an earlier version may have made, get the settings that guard who
    reads them; those of another cluster are its operator's. Raises BrokerError when the broker
    cannot be reached or refuses.
    """
    from kafka.admin import NewTopic
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    admin = admin_client(kafka)
    try:
        present = set(admin.list_topics())
        missing = [spec for spec in TOPICS if spec.name not in present]
        for spec in missing:
            topic = NewTopic(
                name=spec.name,
                num_partitions=partitions(spec, kafka),
                replication_factor=-1,  # the broker's default: 1 on one node, 3 on three
                topic_configs=settings_of(spec),
            )
            try:
                admin.create_topics([topic])
            except TopicAlreadyExistsError:
                continue  # another process made it meanwhile
        if missing:
            _await_leaders(admin, [spec.name for spec in missing])
            _log.info("topics made", topics=[spec.name for spec in missing])
        if kafka.local:
            _guard(admin, [spec.name for spec in TOPICS if spec.name in present])
    except KafkaError as error:
        raise BrokerError(f"Kafka at {kafka.servers} refused to make topics: {error}") from error
    finally:
        admin.close()


def await_broker(kafka: KafkaSettings) -> None:
    """Return when the broker answers and every topic is there. Raises BrokerError otherwise."""
    wait_for_broker(kafka, BROKER_PATIENCE)
    ensure_topics(kafka)


def wait_for_broker(kafka: KafkaSettings, timeout: float = 60.0) -> None:
    """Return when Kafka answers. Raises BrokerError after ``timeout`` seconds, and ForeignBroker
    at once: another workspace's broker does not go away by itself."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            admin_client(kafka).close()
        except ForeignBroker:
            raise
        except BrokerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.25)
        else:
            return


def admin_client(kafka: KafkaSettings) -> Any:
    """A kafka-python admin client. Raises BrokerError when Kafka does not answer."""
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

    connection.require_listener(kafka)
    try:
        return made(KafkaAdminClient, **connection.kafka_python(kafka, "flywheel-admin"))
    except (KafkaError, OSError) as error:
        raise BrokerError(f"Kafka at {kafka.servers} does not answer: {error}") from error


def _guard(admin: Any, names: list[str]) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    if names:
        admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, configs=_GUARDS) for name in names]
        )


def _led(topic: Any) -> bool:
    partitions = topic["partitions"]
    return bool(partitions) and all(
        p["error_code"] == 0 and p["leader_id"] >= 0 for p in partitions
    )


def _await_leaders(admin: Any, names: list[str], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        described = admin.describe_topics(names)
        if all(_led(topic) for topic in described):
            return
        time.sleep(0.05)
    raise BrokerError(f"topics {names} have no leader after {timeout:.0f} s")
