"""The broker dates what comes to it, and what a writer dated ahead is no later than that."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec
import pytest

from flywheel.contracts.codec import decode
from flywheel.contracts.events import LabelRecorded
from flywheel.contracts.ids import new_id
from flywheel.errors import EventError
from flywheel.settings import KafkaSettings
from streams.arrival import no_later_than_arrival
from streams.publisher import KafkaPublisher
from streams.reading import read_topic
from streams.topics import ensure_topics


def label(occurred_at: datetime) -> LabelRecorded:
    return LabelRecorded(
        event_id=new_id(),
        occurred_at=occurred_at,
        task="arrival",
        sample_id="s",
        value="a",
        source="user",
        annotator="ann",
    )


def test_a_record_is_dated_by_the_broker_and_bounds_its_event(kafka: KafkaSettings) -> None:
    ensure_topics(kafka)
    before = datetime.now(UTC)
    sent = [label(before + timedelta(hours=2)), label(before - timedelta(hours=2))]
    publisher = KafkaPublisher(kafka, "test-arrival")
    publisher.publish(sent)
    publisher.close()
    after = datetime.now(UTC)
    found = {}
    for record in read_topic(kafka, "flywheel.labels"):
        with contextlib.suppress(EventError):
            event = decode(record.value, dict(record.headers))
            found[event.event_id] = no_later_than_arrival(event, record)
    ahead, behind = (found[event.event_id] for event in sent)
    assert before - timedelta(milliseconds=1) <= ahead.occurred_at
    assert ahead.occurred_at <= after + timedelta(milliseconds=1)
    assert behind == sent[1]


@pytest.mark.parametrize("unit", [1, 1000], ids=["Faust, seconds", "clients, milliseconds"])
@pytest.mark.parametrize("kind", [0, 1, None])
def test_only_the_brokers_own_time_bounds(unit: int, kind: int | None) -> None:
    arrived = datetime(2026, 3, 1, tzinfo=UTC)
    record = SimpleNamespace(timestamp=arrived.timestamp() * unit, timestamp_type=kind)
    for ahead in (timedelta(hours=2), timedelta(days=60_000)):
        event = label(arrived + ahead)
        bounded = no_later_than_arrival(event, record)
        near = arrived + timedelta(milliseconds=1)
        expected = msgspec.structs.replace(event, occurred_at=near) if kind == 1 else event
        assert bounded == expected
