"""Whatever stands in a record, the agents, the followers and the doctor outlive it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hostile_records import RawName, document, hostile, named
from kafka_fixture import end, end_with_parent, free_port
from streams_harness import ROOT, eventually

from flywheel.contracts.codec import Record, decode
from flywheel.contracts.events import (
    TOPICS,
    Event,
    LabelRecorded,
    ReleaseRegistered,
    RolloutChanged,
    TrafficRecorded,
)
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import EventError
from flywheel.ops import supervisor
from flywheel.ops.agents import agent_figures
from flywheel.ops.doctor import examine
from flywheel.ops.health import health_problem
from flywheel.serving.releases import ReleaseSet
from flywheel.settings import FlywheelSettings, KafkaSettings, load_settings
from storage.database import Database
from streams.agents import evidence, labels, review, triage
from streams.dead_letters import all_letters, list_dead_letters, replay
from streams.follower import Follower
from streams.local_broker import LocalBroker
from streams.publisher import KafkaPublisher
from streams.topics import ensure_topics

TASK = "topic"
LABELS = ("v", "w")
AGENTS = {agent.GROUP: agent.TOPICS for agent in (triage, review, labels, evidence)}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[FlywheelSettings]:
    """A workspace with a broker of its own, since the agents' groups are the real ones."""
    port, health = free_port(), free_port()
    (tmp_path / "flywheel.toml").write_text(
        f"""
[kafka]
bootstrap_servers = "127.0.0.1:{port}"
[worker]
processes = 4
[monitoring]
worker_port = {health}
[tasks.{TASK}]
labels = {list(LABELS)}
[tasks.{TASK}.training]
base_model = "not-used-here"
"""
    )
    broker = LocalBroker(tmp_path / "broker", port)
    end_with_parent(broker.start().pid or 0)
    try:
        found = load_settings(tmp_path, {})
        ensure_topics(found.kafka)
        yield found
    finally:
        end(broker)


def send(servers: str, records: Sequence[Record]) -> None:
    """By a client that checks nothing."""
    from aiokafka import AIOKafkaProducer

    async def put() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=servers, max_request_size=8 << 20)
        await producer.start()
        try:
            for one in records:
                await producer.send_and_wait(
                    one.topic, one.value, one.key, headers=list(one.headers)
                )
        finally:
            await producer.stop()

    asyncio.run(put())


def send_odd_names(kafka: KafkaSettings) -> list[Record]:
    """A header name that is not UTF-8, between sound records of one batch, in every topic."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=kafka.servers, linger_ms=200)
    odd = [Record(topic.name, b"odd name", b"{}", ((RawName("odd"), b"1"),)) for topic in TOPICS]
    for one in odd:
        producer.send(one.topic, one.value, one.key, [("plain", b"1")])
        producer.send(one.topic, one.value, one.key, list(one.headers))
        producer.send(one.topic, one.value, one.key, [])
    producer.flush()
    producer.close()
    return [one for one in odd for _ in range(3)]


def sound_events() -> list[Event]:
    common: dict[str, Any] = {"occurred_at": utc_now(), "task": TASK}
    made: list[Event] = []
    for number in range(20):
        sample = f"sound-{number}"
        made.append(TrafficRecorded(event_id=new_id(), sample_id=sample, content="?", **common))
        made.append(
            LabelRecorded(
                event_id=new_id(), sample_id=sample, value="v", source="user", annotator="a",
                **common,
            )
        )  # fmt: skip
    return made


def test_no_record_ends_the_worker_a_follower_or_the_doctor(workspace: FlywheelSettings) -> None:
    kafka = workspace.kafka
    corpus = [
        one for topic in TOPICS for one in hostile(topic.name)
        if one.value is not None or not topic.compacted
    ]  # fmt: skip
    assert len(corpus) > 100
    send(kafka.servers, corpus)
    corpus += send_odd_names(kafka)
    log = (workspace.workspace / "worker.log").open("ab")
    # As `flywheel up` runs it where there are cores: agents in processes of their own.
    programs = [one for one in supervisor.programs(workspace) if one.name.startswith("worker")]
    assert len(programs) == 4
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "flywheel", "-w", str(workspace.workspace), *one.arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
        for one in programs
    ]
    for worker in workers:
        end_with_parent(worker.pid)
    heard: list[Event] = []
    follower = Follower(kafka, ["flywheel.rollouts", "flywheel.releases"], heard.append, "test")
    follower.start()
    publisher = KafkaPublisher(kafka, "test")
    workspace.state.mkdir(parents=True, exist_ok=True)
    database = Database(workspace.database)
    database.migrate()
    sound = sound_events()
    try:
        publisher.publish(sound)
        last = decode(document(RolloutChanged, event_id="last"), named(RolloutChanged))
        publisher.publish([last])
        eventually(lambda: last in heard)
        assert follower.caught_up(60)

        def kept() -> bool:
            assert all(worker.poll() is None for worker in workers)
            with database.transaction(read_only=True) as tx:
                wanted = [one for one in sound if isinstance(one, LabelRecorded)]
                words = [(one.task, one.sample_id, one.source) for one in wanted]
                return not (
                    tx.effects.unkept_labels([(one.event_id,) for one in wanted])
                    or tx.effects.unproved(words)
                )

        eventually(kept, 180)
        bad = {
            group: sum(one.topic in topics for one in corpus) for group, topics in AGENTS.items()
        }

        def refused() -> bool:
            letters = list_dead_letters(kafka, 10**6)
            return all(
                sum(letter.group == group for letter in letters) == count
                for group, count in bad.items()
            )

        eventually(refused, 120)
        assert all(worker.poll() is None for worker in workers)
        figures = agent_figures(workspace)
        assert set(figures) == set(AGENTS)
        assert figures["flywheel.labels"].partitions == 12
        assert all(health_problem(one.health or "") is None for one in programs)
        finding = examine(workspace, full=True)
        assert finding.lost == ()
        by_positions = examine(workspace)
        assert by_positions.lost == ()
        assert [group["read"] for group in by_positions.groups] == [0, 0, 0]
        assert [one for one in finding.problems if "base_model" not in one] == []
        before = len(list_dead_letters(kafka, 10**6))
        assert replay(kafka, publisher).sent > 0
        eventually(lambda: len(list_dead_letters(kafka, 10**6)) == before, 120)
        assert replay(kafka, publisher, lambda letter: False).sent == 0
        assert len(all_letters(kafka)) == 2 * before
        assert all(worker.poll() is None for worker in workers)
    finally:
        follower.stop()
        publisher.close()
        database.dispose()
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        assert [worker.wait(60) for worker in workers] == [0] * len(workers)
        log.close()


def test_a_forged_split_loads_nothing_outside_the_releases(tmp_path: Path) -> None:
    from flywheel.errors import ArtefactError
    from flywheel.registry.release_folder import release_folder

    for forged in ("..", ".", "", "../..", "a/../../b", "/etc", "a\x00b", "x" * 300):
        with pytest.raises(ArtefactError, match="no release id"):
            release_folder(tmp_path, forged)
    forged_events = [
        document(RolloutChanged, split={"task": TASK, "champion": "../../elsewhere"}),
        document(RolloutChanged, challenger=".."),
        document(ReleaseRegistered, release="../../elsewhere"),
    ]
    for body in forged_events[:2]:
        with pytest.raises(EventError):
            decode(body, named(RolloutChanged))
    with pytest.raises(EventError):
        decode(forged_events[2], named(ReleaseRegistered))
    # A split that came by another way (a file of an earlier version) ends where a path is made.
    asked: list[Path] = []
    releases = ReleaseSet(lambda name: asked.append(release_folder(tmp_path, name)))  # type: ignore[arg-type]
    sound = decode(document(RolloutChanged), named(RolloutChanged))
    assert isinstance(sound, RolloutChanged)
    split = msgspec.structs.replace(sound.split, champion="../..")
    releases.update(msgspec.structs.replace(sound, split=split))
    releases.start()
    try:
        eventually(lambda: "no release id" in (releases.problem() or ""))
        assert asked == []
    finally:
        releases.stop()
