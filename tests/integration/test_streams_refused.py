"""A record that Kafka refuses costs no other, and ends nobody: tried on every producer there is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka_fixture import end, end_with_parent, forget_dead_sockets, free_port, local_kafka
from new_database import new_database
from streams_harness import WorkerProcess, eventually, traffic

from flywheel.contracts.codec import Record, decode, encode
from flywheel.contracts.events import TOPICS, ReviewRequested
from flywheel.contracts.ids import new_id
from flywheel.errors import BrokerError, RecordRefused
from flywheel.gateway.capture import Capture
from flywheel.gateway.spill import SpillLog
from flywheel.ops.ingest import ingest_file
from flywheel.settings import KafkaSettings, load_settings
from streams.dead_letters import TOPIC as LETTERS
from streams.dead_letters import all_letters, list_dead_letters, replay
from streams.lettering import lettering
from streams.local_broker import LocalBroker
from streams.publisher import KafkaPublisher
from streams.reading import read_topic
from streams.relay import OutboxRelay
from streams.topics import LARGEST_RECORD_BYTES, ensure_topics

# What this broker's topics take: less than our own records may be, as on a cluster of others.
LIMIT = 4000
BAD = "too long for this broker " * 400
TASK = "streams-test"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """A broker of its own: its topics take less than those of the others' do."""
    with local_kafka(tmp_path_factory.mktemp("small-records")) as settings:
        limit(settings, *(topic.name for topic in TOPICS if topic.name != LETTERS))
        yield settings


def limit(kafka: KafkaSettings, *topics: str, size: int = LIMIT) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=kafka.servers)
    told = {"max.message.bytes": str(size)}
    try:
        admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name, configs=told) for name in topics]
        )
    finally:
        admin.close()


def stored(kafka: KafkaSettings, topic: str = "flywheel.traffic") -> list[str]:
    return [decode(one.value, dict(one.headers)).event_id for one in read_topic(kafka, topic)]


def letters_of(kafka: KafkaSettings, group: str) -> list[bytes | None]:
    return [one.value for one in list_dead_letters(kafka, 10**6) if one.group == group]


def mixed() -> list[Any]:
    """Good events with a bad one between them, all to one partition: one batch has them all."""
    good, bad = traffic(6), traffic(1, content=BAD)
    return [
        *(event for event in good[:3]),
        *bad,
        *(event for event in good[3:]),
    ]


def by_key(events: list[Any]) -> list[Record]:
    return [Record(r.topic, b"one", r.value, r.headers) for r in map(encode, events)]


@pytest.mark.parametrize("odd_header", [False, True])
def test_a_publisher_stores_the_others_and_says_which_was_refused(
    kafka: KafkaSettings, odd_header: bool
) -> None:
    # A header without a value goes by the other client.
    extra: tuple[tuple[str, bytes | None], ...] = (("none", None),) if odd_header else ()
    events = mixed()
    records = [Record(r.topic, r.key, r.value, (*r.headers, *extra)) for r in by_key(events)]
    publisher = KafkaPublisher(kafka, "test")
    try:
        with pytest.raises(RecordRefused, match="1 of 7") as caught:
            publisher.publish_records(records)
        assert list(caught.value.refused) == [3]
        # What the client itself finds too large, before any broker is asked.
        huge = Record("flywheel.traffic", b"one", b"x" * (LARGEST_RECORD_BYTES + 1), extra)
        with pytest.raises(RecordRefused) as caught:
            publisher.publish_records([*records[:1], huge, *records[4:5]])
        assert list(caught.value.refused) == [1]
        after = traffic(3)
        publisher.publish(after)
    finally:
        publisher.close()
    good = {event.event_id for event in events if event.text != BAD}
    there = stored(kafka)
    assert good | {event.event_id for event in after} <= set(there)
    assert events[3].event_id not in there


def test_a_publisher_that_failed_harms_no_other_of_its_name(kafka: KafkaSettings) -> None:
    first, second = KafkaPublisher(kafka, "same"), KafkaPublisher(kafka, "same")
    sent = [traffic(2) for _ in range(5)]
    try:
        first.publish(sent[0])
        second.publish(sent[1])
        with pytest.raises(RecordRefused):
            first.publish(mixed())
        second.publish(sent[2])
        first.publish(sent[3])
        second.publish(sent[4])
    finally:
        first.close()
        second.close()
    there = stored(kafka)
    assert all(there.count(event.event_id) == 1 for batch in sent for event in batch)


def test_closing_raises_nothing_when_all_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.publisher.CLOSING_SECONDS", 0.5)
    sent = traffic(2)
    broker = LocalBroker(tmp_path, port := free_port())
    end_with_parent(pid := broker.start().pid or 0)
    own = KafkaSettings(local_port=port)
    publisher = KafkaPublisher(own, "test")
    try:
        ensure_topics(own)
        publisher.publish(sent)
        producer = publisher._connected()
        os.kill(pid, signal.SIGSTOP)
        # What another thread sent since is in flight, to a broker that hangs: it is given up.
        producer.send("flywheel.traffic", b"in flight")
        publisher.close()
    finally:
        os.kill(pid, signal.SIGCONT)
        end(broker)
        forget_dead_sockets()


def test_the_relay_sends_what_stands_behind_a_refused_row(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    database = new_database(f"sqlite:///{tmp_path / 'flywheel.db'}")
    events = mixed()
    with database.transaction("console") as tx:
        tx.outbox.add(events)
    group = f"test-{new_id()}"
    publisher = lettering(kafka, group)
    relay = OutboxRelay(database.outbox_rows("console"), publisher)
    try:
        assert relay.drain() == 7
        later = traffic(2)
        with database.transaction("console") as tx:
            tx.outbox.add(later)
        assert relay.drain() == 2
    finally:
        publisher.close()
        database.dispose()
    good = {event.event_id for event in (*events, *later) if event.text != BAD}
    assert good <= set(stored(kafka))
    assert letters_of(kafka, group) == [encode(events[3]).value]


def test_the_gateways_spill_log_is_not_held_up(kafka: KafkaSettings, tmp_path: Path) -> None:
    events = mixed()
    group = f"test-{new_id()}"
    publisher = lettering(kafka, group)
    capture = Capture(SpillLog(tmp_path / "spill"), publisher)
    for event in events:
        capture.record(event)
    capture.start()
    try:
        assert capture.flush(60)
    finally:
        capture.close()
        publisher.close()
    assert {event.event_id for event in events if event.text != BAD} <= set(stored(kafka))
    assert letters_of(kafka, group) == [encode(events[3]).value]


def test_a_refused_record_goes_where_it_was_to_go_once_its_topic_takes_it(
    kafka: KafkaSettings,
) -> None:
    group = f"test-{new_id()}"
    publisher = lettering(kafka, group)
    bad = [encode(event) for event in traffic(2, content=BAD)]
    plain = KafkaPublisher(kafka, "test-replay")
    wanted = [one.event_id for one in (decode(r.value, dict(r.headers)) for r in bad)]
    try:
        publisher.publish_records(bad)
        publisher.publish_records(bad[:1])  # sent again after a crash: the same letter
        of_group = lambda letter: letter.group == group  # noqa: E731
        assert len(letters_of(kafka, group)) == 2
        # Refused once more, beside a good one: the good one goes, and the bad ones stay letters.
        again = replay(kafka, plain, of_group)
        assert (again.sent, len(again.refused)) == (0, 2)
        limit(kafka, "flywheel.traffic", size=1 << 20)
        assert replay(kafka, plain, of_group).sent == 2
        assert set(wanted) <= set(stored(kafka))
        assert letters_of(kafka, group) == []
        plain.publish(traffic(1))
    finally:
        limit(kafka, "flywheel.traffic")
        publisher.close()
        plain.close()


def test_a_letter_that_is_refused_itself_keeps_what_it_can(kafka: KafkaSettings) -> None:
    group = f"test-{new_id()}"
    publisher = lettering(kafka, group)
    bad = [encode(event) for event in traffic(1, content="long " * 40_000)]
    try:
        limit(kafka, LETTERS, size=150_000)
        publisher.publish_records(bad)
        [letter] = [one for one in all_letters(kafka) if one.group == group]
        assert letter.cut is not None
        limit(kafka, LETTERS, size=1000)
        with pytest.raises(BrokerError, match="not even a short dead letter"):
            publisher.publish_records(
                [encode(event) for event in traffic(1, content="long " * 40_000)]
            )
    finally:
        limit(kafka, LETTERS, size=LARGEST_RECORD_BYTES)
        publisher.close()


def test_bringing_in_a_file_says_so_and_stores_the_others(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    (tmp_path / "flywheel.toml").write_text(
        f"""
[kafka]
bootstrap_servers = "{kafka.servers}"
[tasks.{TASK}]
labels = ["v", "w"]
[tasks.{TASK}.training]
base_model = "not-used-here"
"""
    )
    settings = load_settings(tmp_path, {})
    rows = tmp_path / "rows.csv"
    rows.write_text(f'text,label\nfirst of {tmp_path.name},v\n"{BAD}",w\nlast,w\n')
    with pytest.raises(RecordRefused, match="1 of 6"):
        ingest_file(settings, TASK, rows, None, "kim")
    texts = [decode(r.value, dict(r.headers)).text for r in read_topic(kafka, "flywheel.traffic")]
    assert {f"first of {tmp_path.name}", "last"} <= set(texts)
    rows.write_text("text,label\nfirst,v\nlast,w\n")
    assert ingest_file(settings, TASK, rows, None, "kim").samples == 2


def test_an_agent_outlives_a_record_that_its_topic_refuses(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    """The traffic fits; the review that is asked for it does not."""
    events = traffic(4)
    limit(kafka, "flywheel.traffic", size=1 << 20)
    events.insert(2, traffic(1, content=BAD)[0])
    publisher = KafkaPublisher(kafka, "test")
    worker = WorkerProcess(kafka.local_port, f"test.{new_id()}", tmp_path)
    try:
        publisher.publish(events)
        worker.start()
        eventually(lambda: {event.event_id for event in events} <= worker.effects())
        wanted = {f"review-{event.event_id}" for event in events if event.text != BAD}
        eventually(lambda: wanted <= set(stored(kafka, "flywheel.review")))
        bad = f"review-{events[2].event_id}"
        eventually(
            lambda: bad in [
                event.event_id
                for letter in list_dead_letters(kafka, 10**6)
                if letter.group == worker.group and letter.code == RecordRefused.code
                for event in [decode(letter.value or b"", dict(letter.record_headers or ()))]
                if isinstance(event, ReviewRequested)
            ]
        )  # fmt: skip
        after = traffic(2)
        publisher.publish(after)
        wanted = {f"review-{event.event_id}" for event in after}
        eventually(lambda: wanted <= set(stored(kafka, "flywheel.review")))
        assert worker.end(signal.SIGTERM) == 0
    finally:
        limit(kafka, "flywheel.traffic")
        worker.close()
        publisher.close()
