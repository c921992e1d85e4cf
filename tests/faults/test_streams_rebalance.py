"""Members of a group come and go, and topics are made anew, under load: nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_fixture import local_kafka
from streams_harness import WorkerProcess, eventually, traffic
from test_streams_kill import Load

from flywheel.contracts.codec import event_id_in
from flywheel.contracts.events import TOPICS
from flywheel.settings import KafkaSettings
from streams.agent_loop import EXIT_HOPELESS
from streams.groups import committed_offsets
from streams.publisher import KafkaPublisher
from streams.reading import read_topic
from streams.topics import admin_client, ensure_topics

# Minutes together: .ci/run runs them after `make test`.
pytestmark = pytest.mark.slow

TOPIC = "flywheel.traffic"


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaSettings]:
    with local_kafka(tmp_path / "kafka") as settings:
        yield settings


def passed(kafka: KafkaSettings, group: str) -> set[str]:
    """Ids of events below what a group has committed."""
    committed = committed_offsets(kafka, group)
    return {
        event_id
        for record in read_topic(kafka, TOPIC)
        if record.offset < committed.get((TOPIC, record.partition), 0)
        and (event_id := event_id_in(record.value)) is not None
    }


def test_members_that_come_and_go_lose_nothing(kafka: KafkaSettings, tmp_path: Path) -> None:
    group = f"rebalance.{os.getpid()}"
    members = [WorkerProcess(kafka.local_port, group, tmp_path) for _ in range(3)]
    load = Load(kafka)
    load.start()
    try:
        members[0].start()
        for turn, member in enumerate(members[1:] * 2):
            before = len(members[0].effects())
            member.start()
            eventually(lambda before=before: len(members[0].effects()) > before + 300)
            # What is committed is done, in the middle of it as well.
            assert passed(kafka, group) <= members[0].effects()
            member.end(signal.SIGKILL if turn % 2 else signal.SIGTERM)
        wanted = load.end()
        # What the killed one did and had not committed comes again to the one that is left.
        eventually(lambda: wanted <= members[0].effects() and wanted <= passed(kafka, group))
        assert members[0].end(signal.SIGTERM) == 0
    finally:
        load.end()
        for member in members:
            member.close()
    assert wanted <= passed(kafka, group) <= members[0].effects()


def test_a_member_that_hangs_while_others_take_over_loses_nothing(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    group = f"hang.{os.getpid()}"
    hanging, other = (WorkerProcess(kafka.local_port, group, tmp_path) for _ in range(2))
    load = Load(kafka)
    load.start()
    try:
        hanging.start()
        eventually(lambda: len(hanging.effects()) > 300)
        hanging.signal(signal.SIGSTOP)
        other.start()
        before = len(other.effects())
        eventually(lambda: len(other.effects()) > before + 300)
        hanging.signal(signal.SIGCONT)
        eventually(lambda: len(other.effects()) > before + 900)
        assert passed(kafka, group) <= other.effects()
        wanted = load.end()
        eventually(lambda: wanted <= other.effects())
        assert other.end(signal.SIGTERM) == 0
    finally:
        load.end()
        hanging.close()
        other.close()
    assert passed(kafka, group) <= other.effects()


def test_a_topic_that_is_made_anew_is_handled_from_its_beginning(
    own_kafka: KafkaSettings, tmp_path: Path
) -> None:
    publisher = KafkaPublisher(own_kafka, "test")
    worker = WorkerProcess(own_kafka.local_port, "anew", tmp_path)
    first, second = traffic(40), traffic(400)
    try:
        publisher.publish(first)
        worker.start()
        eventually(lambda: {one.event_id for one in first} <= worker.effects())
        admin = admin_client(own_kafka)
        admin.delete_topics([TOPIC])
        eventually(lambda: TOPIC not in admin.list_topics())
        admin.close()
        ensure_topics(own_kafka)
        assert TOPIC in {topic.name for topic in TOPICS}
        publisher.publish(second)
        assert worker.wait() == EXIT_HOPELESS
        worker.start()
        eventually(lambda: {one.event_id for one in second} <= worker.effects())
        assert worker.end(signal.SIGTERM) == 0
    finally:
        publisher.close()
        worker.close()
