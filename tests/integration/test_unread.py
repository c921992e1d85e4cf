"""Retention beside a Kafka in which requests lie that agents have not read yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from images import picture
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka_fixture import local_kafka
from new_database import new_database
from settings_file import load

import flywheel.upkeep.images
from flywheel.contracts.events import LabelRecorded, ReviewRequested, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.sample import Content, ImagePart, Message
from flywheel.settings import FlywheelSettings, KafkaSettings
from flywheel.upkeep.retention import remove_rows
from storage.database import Database
from storage.objects import open_artefacts, open_blobs
from storage.objects.store import file_key
from streams.agents import labels, review, triage
from streams.publisher import KafkaPublisher
from streams.reconcile import reconcile

TOML = """
[retention]
traffic = 30
automatic = 30
[kafka]
bootstrap_servers = "{servers}"
[tasks.mail]
labels = ["a", "b"]
training.base_model = "/models/base"
"""
PICTURE = picture()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """A broker of this module alone: what lies in it unread is what a test put there."""
    with local_kafka(tmp_path_factory.mktemp("kafka")) as settings:
        yield settings


@pytest.fixture
def settings(tmp_path: Path, broker: KafkaSettings) -> FlywheelSettings:
    return load(tmp_path, TOML.format(servers=broker.servers))


@pytest.fixture
def database(settings: FlywheelSettings) -> Iterator[Database]:
    made = new_database(settings.database)
    yield made
    made.dispose()


def sent(sample: str, content: Content, days: int) -> TrafficRecorded:
    return TrafficRecorded(
        event_id=new_id(),
        occurred_at=utc_now() - timedelta(days=days),
        task="mail",
        sample_id=sample,
        content=content,
    )


def put(settings: FlywheelSettings) -> Content:
    """What a gateway does with an image before its request is recorded."""
    artefact = open_artefacts(settings).put_bytes(PICTURE)
    return (Message("user", (ImagePart(artefact.sha256, "image/png", 12, 8),)),)


def publish(
    broker: KafkaSettings, *events: TrafficRecorded | LabelRecorded | ReviewRequested
) -> None:
    publisher = KafkaPublisher(broker, "test-unread")
    publisher.publish(events)
    publisher.close()


def read_all(broker: KafkaSettings) -> None:
    """Each agent's group has come to the end of what it reads."""
    for agent in (triage, review, labels):
        consumer = KafkaConsumer(
            bootstrap_servers=broker.servers, group_id=agent.GROUP, enable_auto_commit=False
        )
        places = [
            TopicPartition(topic, number)
            for topic in agent.TOPICS
            for number in consumer.partitions_for_topic(topic) or ()
        ]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.commit({place: OffsetAndMetadata(end, "", -1) for place, end in ends.items()})
        consumer.close()


def test_an_image_that_an_unread_request_shows_stays(
    settings: FlywheelSettings,
    database: Database,
    broker: KafkaSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database.transaction() as tx:
        tx.label_intake.record([sent("old", put(settings), days=60)])
    again = sent("new", put(settings), days=0)
    publish(broker, again)

    def there() -> bool:
        remove_rows(settings, database, utc_now())
        key = file_key(hashlib.sha256(PICTURE).hexdigest())
        return open_blobs(settings).size(key) is not None

    read_all(broker)
    assert there(), "another gateway may have it in its spill log still"
    monkeypatch.setattr(flywheel.upkeep.images, "ON_ITS_WAY", timedelta())
    publish(broker, sent("newer", put(settings), days=0))
    assert there(), "it lies in Kafka"
    with database.transaction() as tx:
        tx.label_intake.record([again])
    read_all(broker)
    assert there(), "it was read, and is shown"
    with database.transaction() as tx:
        tx.erasures.remove("mail", ["new"])
    assert not there()


def test_what_was_removed_is_not_missed(
    settings: FlywheelSettings, database: Database, broker: KafkaSettings
) -> None:
    """A labelled sample goes whole, also out of the experts' queue, which is kept for ever."""
    then = utc_now() - timedelta(days=60)
    about = {"task": "mail", "sample_id": "s1", "occurred_at": then}
    asked = ReviewRequested(
        event_id=new_id(),
        content="text",
        reason="uncertain",
        priority=50,
        inclusion_probability=1.0,
        audit=False,
        **about,  # type: ignore[arg-type]
    )
    said = LabelRecorded(event_id=new_id(), value="a", source="rule", annotator="r", **about)  # type: ignore[arg-type]
    request = sent("s1", "text", days=60)
    publish(broker, request, asked, said)
    with database.transaction() as tx:
        tx.label_intake.record([request, said])
        tx.intake.open([asked])
        tx.intake.withdraw("mail", ["s1"])
    went = remove_rows(settings, database, utc_now())
    assert went is not None
    assert went["mail"]["review_tasks"] == 1
    read_all(broker)
    ours = {request.event_id, asked.event_id, said.event_id}
    report = reconcile(broker, database, full=True)
    assert not ours & {event_id for group in report.groups for event_id in group.lost}
