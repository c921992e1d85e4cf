"""kill -9 of a worker, or of the broker, under load: nothing is lost, every effect is made once."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from kafka_fixture import end_with_parent, forget_dead_sockets, free_port
from streams_harness import WorkerProcess, eventually, traffic

from flywheel.contracts.codec import decode
from flywheel.contracts.events import Event, TrafficRecorded
from flywheel.errors import BrokerError, EventError
from flywheel.settings import KafkaSettings
from streams.agent_loop import EXIT_HOPELESS
from streams.dead_letters import list_dead_letters
from streams.follower import Follower
from streams.groups import committed_offsets
from streams.local_broker import LocalBroker
from streams.publisher import KafkaPublisher
from streams.reading import read_topic
from streams.topics import ensure_topics

# Minutes together: .ci/run runs them after `make test`.
pytestmark = pytest.mark.slow


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    one = LocalBroker(tmp_path, free_port())
    end_with_parent(one.start().pid or 0)
    ensure_topics(KafkaSettings(local_port=one.port))
    yield one
    one.stop()
    forget_dead_sockets()


class Load(threading.Thread):
    """Publishes traffic until told to stop; knows which events Kafka acknowledged."""

    def __init__(self, kafka: KafkaSettings) -> None:
        super().__init__(daemon=True)
        self._publisher = KafkaPublisher(kafka, "load", timeout=10)
        self._ending = threading.Event()
        self.acknowledged: list[str] = []
        self.refused = 0

    def run(self) -> None:
        while not self._ending.is_set():
            events = traffic(100)
            while not self._ending.is_set():
                try:
                    self._publisher.publish(events)
                except BrokerError:
                    self.refused += 1
                    self._ending.wait(0.1)
                else:
                    self.acknowledged += [event.event_id for event in events]
                    break
            self._ending.wait(0.05)
        self._publisher.close()

    def end(self) -> set[str]:
        self._ending.set()
        self.join(60)
        assert not self.is_alive()
        return set(self.acknowledged)


def events_of(kafka: KafkaSettings, topic: str) -> Counter[str]:
    """Event id → how many records hold it."""
    found: Counter[str] = Counter()
    for record in read_topic(kafka, topic):
        try:
            found[decode(record.value, dict(record.headers)).event_id] += 1
        except EventError:
            continue
    return found


def test_a_worker_killed_under_load_loses_nothing(kafka: KafkaSettings, tmp_path: Path) -> None:
    worker = WorkerProcess(kafka.local_port, f"kill.{os.getpid()}", tmp_path)
    load = Load(kafka)
    load.start()
    try:
        worker.start()
        eventually(lambda: len(worker.effects()) > 500)
        worker.end(signal.SIGKILL)
        wanted = load.end()
        worker.start()
        eventually(lambda: wanted <= worker.effects())
        assert worker.end(signal.SIGTERM) == 0
    finally:
        load.end()
        worker.close()
    reviews = events_of(kafka, "flywheel.review")
    assert {f"review-{event_id}" for event_id in wanted} <= set(reviews)


def test_a_stopped_worker_has_committed_what_it_handled(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    publisher = KafkaPublisher(kafka, "test")
    sent = traffic(1000)
    publisher.publish(sent)
    publisher.close()
    worker = WorkerProcess(kafka.local_port, f"stop.{os.getpid()}", tmp_path)
    worker.start()
    wanted = {event.event_id for event in sent}
    eventually(lambda: wanted <= worker.effects())
    assert worker.end(signal.SIGTERM) == 0
    committed = committed_offsets(kafka, worker.group)
    below = Counter(
        record.offset < committed.get(("flywheel.traffic", record.partition), 0)
        for record in read_topic(kafka, "flywheel.traffic")
    )
    assert below[False] == 0


def test_a_database_that_is_away_for_a_while_costs_no_event(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    worker = WorkerProcess(kafka.local_port, f"away.{os.getpid()}", tmp_path)
    worker.start()
    other = sqlite3.connect(worker.database, isolation_level=None)
    try:
        other.execute("begin exclusive")  # from now on every transaction of the worker is refused
        publisher = KafkaPublisher(kafka, "test")
        sent = traffic(50)
        publisher.publish(sent)
        publisher.close()
        eventually(lambda: worker.log.read_text().count("trying again") > 3)
        other.execute("rollback")
    finally:
        other.close()
    wanted = {event.event_id for event in sent}
    eventually(lambda: wanted <= worker.effects())
    assert worker.end(signal.SIGTERM) == 0
    assert not letters_of(kafka, worker.group, sent)


def test_a_bug_ends_the_process_before_anything_is_acknowledged(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    publisher = KafkaPublisher(kafka, "test")
    sent = [*traffic(20), *traffic(1, content="bug"), *traffic(20)]
    publisher.publish(sent)
    publisher.close()
    wanted = {event.event_id for event in sent}
    worker = WorkerProcess(kafka.local_port, f"bug.{os.getpid()}", tmp_path)
    worker.start(STREAMS_TEST_BUG="yes")
    assert worker.wait() == EXIT_HOPELESS
    worker.start()  # the bug is mended: what it held up is still there
    eventually(lambda: wanted <= worker.effects())
    assert worker.end(signal.SIGTERM) == 0
    assert not letters_of(kafka, worker.group, sent)


def letters_of(kafka: KafkaSettings, group: str, events: Sequence[TrafficRecorded]) -> list[str]:
    keys = {event.sample_id.encode() for event in events}
    letters = list_dead_letters(kafka, 10_000)
    return [one.reason for one in letters if one.group == group and one.key in keys]


def test_a_broker_killed_under_load_loses_nothing_acknowledged(
    broker: LocalBroker, tmp_path: Path
) -> None:
    kafka = KafkaSettings(local_port=broker.port)
    worker = WorkerProcess(broker.port, "survivor", tmp_path)
    followed: set[str] = set()

    def follow(event: Event) -> None:
        assert isinstance(event, TrafficRecorded)
        followed.add(event.event_id)

    follower = Follower(kafka, ["flywheel.traffic"], follow, "test-follower")
    load = Load(kafka)
    load.start()
    worker.start()
    follower.start()
    try:
        eventually(lambda: len(worker.effects()) > 500)
        cluster = broker.status().cluster_id
        pid = broker.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not broker.status().running)
        status = broker.start()
        end_with_parent(status.pid or 0)
        assert status.cluster_id == cluster
        held = len(load.acknowledged)
        eventually(lambda: len(load.acknowledged) > held + 500)
        wanted = load.end()
        eventually(lambda: wanted <= worker.effects())
        eventually(lambda: wanted <= followed)
        assert wanted <= set(events_of(kafka, "flywheel.traffic"))
        assert worker.end(signal.SIGTERM) == 0
    finally:
        load.end()
        follower.stop()
        worker.close()
