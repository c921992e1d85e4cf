"""Topics, publisher, follower, worker and dead letters on a real Kafka."""

from __future__ import annotations

import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_fixture import free_port
from streams_harness import WorkerProcess, eventually, traffic

from flywheel.contracts.codec import Record, decode, encode
from flywheel.contracts.events import TOPICS, DatasetVersioned, Event, LabelRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import BrokerError, EventError
from flywheel.settings import KafkaSettings
from streams.dead_letters import list_dead_letters, replay
from streams.follower import Follower
from streams.publisher import KafkaPublisher
from streams.reading import read_topic
from streams.topics import ensure_topics, wait_for_broker


@pytest.fixture
def publisher(kafka: KafkaSettings) -> Iterator[KafkaPublisher]:
    one = KafkaPublisher(kafka, "test")
    yield one
    one.close()


@pytest.fixture
def worker(kafka: KafkaSettings, tmp_path: Path) -> Iterator[WorkerProcess]:
    process = WorkerProcess(kafka.local_port, f"test.{new_id()}", tmp_path)
    yield process
    process.close()


def dataset(version: str) -> DatasetVersioned:
    return DatasetVersioned(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="streams-test",
        version=version,
        parent=None,
        git_commit="c",
        dvc_hash="h",
        watermark="w",
        expert_labels=1,
        auto_labels=0,
        holdout_labels=0,
    )


def stored_ids(kafka: KafkaSettings, topic: str) -> list[str]:
    ids = []
    for record in read_topic(kafka, topic):
        try:
            ids.append(decode(record.value, dict(record.headers)).event_id)
        except EventError:
            continue
    return ids


def test_topics_are_laid_out_by_the_table_and_made_once(kafka: KafkaSettings) -> None:
    from kafka.admin import KafkaAdminClient

    ensure_topics(kafka)  # the fixture made them already
    admin = KafkaAdminClient(bootstrap_servers=kafka.servers)
    try:
        described = admin.describe_topics([topic.name for topic in TOPICS])
    finally:
        admin.close()
    found = {topic["name"]: len(topic["partitions"]) for topic in described}
    assert found == {topic.name: topic.partitions for topic in TOPICS}


def test_topics_of_an_earlier_version_get_what_guards_their_readers(kafka: KafkaSettings) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=kafka.servers)
    topic = ConfigResourceType.TOPIC
    before = {"compression.type": "producer"}
    try:
        admin.alter_configs([ConfigResource(topic, "flywheel.traffic", configs=before)])
        ensure_topics(kafka)
        described = admin.describe_configs([ConfigResource(topic, "flywheel.traffic")])
    finally:
        admin.close()
    assert "'uncompressed'" in repr(described)


def test_a_topic_that_nobody_made_is_not_made_by_a_send(kafka: KafkaSettings) -> None:
    publisher = KafkaPublisher(kafka, "test", timeout=1.0)
    try:
        with pytest.raises(BrokerError, match="did not acknowledge"):
            publisher.publish_records([Record("flywheel.no-such-topic", b"k", b"v", ())])
    finally:
        publisher.close()


def test_no_broker_is_an_error_that_names_the_address() -> None:
    nowhere = KafkaSettings(local_port=9)
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:9"):
        wait_for_broker(nowhere, timeout=0)
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:9"):
        KafkaPublisher(nowhere, "test", timeout=0.5).publish(traffic(1))


def test_what_is_published_is_in_the_log_with_its_key(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    sent = traffic(50)
    publisher.publish(sent)
    keys = {record.value: record.key.decode() for record in read_topic(kafka, "flywheel.traffic")}
    for event in sent:
        assert keys[encode(event).value] == event.sample_id


def test_the_gauge_counts_for_a_fresh_group_that_is_stuck_from_its_first_record(
    kafka: KafkaSettings, publisher: KafkaPublisher, worker: WorkerProcess
) -> None:
    publisher.publish(traffic(5))
    port = free_port()

    def lag() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith("flywheel_agent_lag{")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    worker.start(STREAMS_TEST_STUCK="1", STREAMS_TEST_METRICS=str(port))
    eventually(lambda: lag() >= 5)
    worker.end(signal.SIGKILL)
    worker.start(STREAMS_TEST_METRICS=str(port))
    eventually(lambda: len(worker.effects()) >= 5 and lag() == 0)


def test_a_follower_reads_from_the_beginning_stays_on_and_skips_garbage(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    before, after = dataset("before"), dataset("after")
    publisher.publish([before])
    publisher.publish_records([Record("flywheel.datasets", b"k", b"garbage", ())])
    seen: list[Event] = []
    follower = Follower(kafka, ["flywheel.datasets"], seen.append, "test-follower")
    follower.start()
    try:
        assert follower.caught_up(30)
        assert before in seen
        publisher.publish([after])
        eventually(lambda: after in seen)
    finally:
        follower.stop()


def test_a_record_that_comes_again_late_is_passed_over_and_told(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    """As from a sender that hung, while another sent it and what came after it."""
    first, second = dataset("first"), dataset("second")
    seen: list[Event] = []
    repeated: list[Event] = []
    follower = Follower(kafka, ["flywheel.datasets"], seen.append, "test-follower", repeated.append)
    follower.start()
    try:
        publisher.publish([first, second])
        publisher.publish([first])
        eventually(lambda: first in repeated)
        assert [event for event in seen if event in (first, second)] == [first, second]
        assert second not in repeated
    finally:
        follower.stop()


def test_a_follower_reads_a_topic_that_is_made_anew_from_its_beginning(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    """It stood after the third record of the log before: the new one has more than that."""
    from kafka.admin import KafkaAdminClient, NewTopic

    topic = f"anew-{new_id()}"
    admin = KafkaAdminClient(bootstrap_servers=kafka.servers)
    events = [dataset(f"v{n}") for n in range(9)]

    def publish(some: list[DatasetVersioned]) -> None:
        publisher.publish_records(
            [Record(topic, b"k", encode(one).value, encode(one).headers) for one in some]
        )

    def make(partitions: int) -> None:
        admin.create_topics([NewTopic(topic, partitions, 1)])

    make(1)
    publish(events[:3])
    seen: list[Event] = []
    follower = Follower(kafka, [topic], seen.append, "test-anew")
    follower.start()
    try:
        eventually(lambda: seen == events[:3])
        admin.delete_topics([topic])
        eventually(lambda: topic not in admin.list_topics())
        make(1)
        publish(events[3:])
        eventually(lambda: [one for one in seen if one in events[3:]] == events[3:])
    finally:
        follower.stop()
        admin.close()


def test_partitions_that_are_added_are_followed(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    from kafka.admin import KafkaAdminClient, NewPartitions, NewTopic

    topic = f"grows-{new_id()}"
    admin = KafkaAdminClient(bootstrap_servers=kafka.servers)
    admin.create_topics([NewTopic(topic, 1, 1)])
    seen: list[Event] = []
    follower = Follower(kafka, [topic], seen.append, "test-grows")
    follower.start()
    try:
        assert follower.caught_up(30)
        admin.create_partitions({topic: NewPartitions(8)})

        def send_everywhere() -> bool:
            for n in range(40):
                event = encode(dataset(f"v{n}"))
                key = f"key-{n}".encode()
                publisher.publish_records([Record(topic, key, event.value, event.headers)])
            return len(seen) > 0

        eventually(send_everywhere)
        before = len(seen)
        send_everywhere()
        eventually(lambda: len(seen) >= before + 40)
    finally:
        follower.stop()
        admin.close()


def test_a_follower_tries_a_retryable_failure_again(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    event = dataset("retried")
    publisher.publish([event])
    attempts: list[str] = []

    def handle(got: Event) -> None:
        if got == event:
            attempts.append(got.event_id)
            if len(attempts) == 1:
                raise BrokerError("not yet")

    follower = Follower(kafka, ["flywheel.datasets"], handle, "test-follower")
    follower.start()
    try:
        assert follower.caught_up(30)
        assert len(attempts) == 2
    finally:
        follower.stop()


def test_the_worker_dead_letters_what_it_cannot_use_and_handles_the_rest(
    kafka: KafkaSettings, publisher: KafkaPublisher, worker: WorkerProcess
) -> None:
    good, poison = traffic(300), traffic(1, content="poison")
    label = LabelRecorded(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="streams-test",
        sample_id="s",
        value="v",
        source="user",
        annotator="a",
    )
    future = encode(good[0])
    broken = [
        Record("flywheel.traffic", b"garbage", b"\xff\x00 not json", encode(label).headers),
        Record("flywheel.traffic", b"headless", b"{}", ()),
        Record("flywheel.traffic", b"future", future.value, (("schema", b"TrafficRecorded/9"),)),
        Record("flywheel.traffic", b"empty", b"", future.headers),
    ]
    publisher.publish(good[:150])
    publisher.publish_records(broken)
    publisher.publish(poison)
    publisher.publish(good[150:])
    worker.start()
    wanted = {event.event_id for event in good}
    eventually(lambda: wanted <= worker.effects())
    letters = {}

    def all_there() -> bool:
        mine = [one for one in list_dead_letters(kafka, 10_000) if one.group == worker.group]
        letters.update({one.key: one for one in mine})
        return len([one for one in mine if one.key in expected]) == 5

    expected = {record.key for record in broken} | {poison[0].sample_id.encode()}
    eventually(all_there)
    assert worker.end(signal.SIGTERM) == 0
    assert poison[0].event_id not in worker.effects()
    for record in broken:
        assert letters[record.key].value == record.value
        assert letters[record.key].source_topic == "flywheel.traffic"
    assert letters[b"future"].code == "unknown-event"
    assert letters[b"garbage"].code == letters[b"headless"].code == "malformed-event"
    refused = letters[poison[0].sample_id.encode()]
    assert refused.code == "rejected-event"
    assert "makes the handler fail" in refused.reason
    forwarded = set(stored_ids(kafka, "flywheel.review"))
    assert {f"review-{event_id}" for event_id in wanted} <= forwarded


def test_replayed_dead_letters_are_the_records_they_were(
    kafka: KafkaSettings, publisher: KafkaPublisher, worker: WorkerProcess
) -> None:
    broken = Record("flywheel.traffic", new_id().encode(), b"\xfe{", (("schema", b"odd/\xe9"),))
    publisher.publish_records([broken])
    worker.start()

    def letters() -> list[str]:
        return [
            one.event_id
            for one in list_dead_letters(kafka, 10_000)
            if one.group == worker.group and one.key == broken.key
        ]

    eventually(lambda: len(letters()) == 1)
    first = letters()
    assert replay(kafka, publisher, set(first)).sent == 1
    # Refused once more, at its new place in the log: one letter in the other's stead.
    eventually(lambda: len(letters()) == 1 and letters() != first)
    again = [one for one in read_topic(kafka, "flywheel.traffic") if one.key == broken.key]
    assert [one.value for one in again] == [broken.value] * 2
    assert [tuple(one.headers[:1]) for one in again] == [broken.headers] * 2
    assert worker.end(signal.SIGTERM) == 0
