"""`flywheel status`: all that can be told, also while parts are down."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kafka_fixture import free_port
from streams_harness import traffic

from flywheel.contracts.events import LabelRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.ops.template import flywheel_toml
from flywheel.processes.leasing import Leases
from flywheel.retraining.ports import Turn
from flywheel.settings import FlywheelSettings, KafkaSettings, load_settings
from storage.workspace import open_database
from streams.lag import agent_lag, handled_all
from streams.publisher import KafkaPublisher


def workspace(folder: Path, **values: object) -> FlywheelSettings:
    text = flywheel_toml("species", ["animal", "plant"], "base", values=values)
    (folder / "flywheel.toml").write_text(text, "utf-8")
    return load_settings(folder, {})


@pytest.fixture
def down(tmp_path: Path) -> FlywheelSettings:
    """A workspace of which nothing runs."""
    return workspace(tmp_path, kafka_port=free_port())


def status(settings: FlywheelSettings, *arguments: str) -> str:
    command = [sys.executable, "-m", "flywheel", "-w", str(settings.workspace), "status"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")  # no supervisor runs
    return done.stdout


def found(settings: FlywheelSettings) -> dict[str, Any]:
    as_json: dict[str, Any] = json.loads(status(settings, "--json"))
    return as_json


def test_status_of_what_is_down_says_so_and_how_to_start_it(down: FlywheelSettings) -> None:
    said = status(down)
    assert re.search(r"^gateway +not running$", said, re.MULTILINE)
    assert "problem: no Kafka takes connections" in said
    assert "species: nothing serves" in said
    assert f"nothing runs: start it with `flywheel -w {down.workspace} up`" in said
    assert "no turn can be made, " in said
    assert f"{down.workspace / 'base'} holds no base model" in said
    assert "`flywheel -w " in said
    assert f"`flywheel -w {down.workspace} ingest holdout.jsonl --split holdout`" in said


def test_status_as_json_has_the_same(down: FlywheelSettings) -> None:
    read = found(down)
    assert (read["supervisor"], read["lag"], read["orphans"]) == (None, None, {})
    assert {process["state"] for process in read["processes"]} == {"not running"}
    assert read["tasks"]["species"]["labels"]["holdout"] == 0
    assert len(read["tasks"]["species"]["next"]) == 3


def test_status_shows_the_turn_and_the_failures_before_it(down: FlywheelSettings) -> None:
    now = utc_now()
    turn = Turn(
        turn_id=new_id(),
        task="species",
        state="running",
        stage="train",
        reason="first labels",
        started_at=now - timedelta(seconds=100),
        seconds={"build": 60.0},
    )
    failed = Turn(
        turn_id=new_id(),
        task="species",
        state="failed",
        stage="compress",
        reason="first labels",
        started_at=now - timedelta(hours=1),
        ended_at=now - timedelta(minutes=50),
        error="compress@species: not enough memory",
    )
    with open_database(down) as database, database.transaction("test") as tx:
        tx.turns.save(failed)
        tx.turns.save(turn)
    said = status(down)
    assert re.search(r"turn: train, \d+ s; \d+ s in all \(first labels\)", said)
    assert "before, in compress: compress@species: not enough memory" in said
    assert re.search(r"a turn is being made: train, \d+ s", said)
    shown = found(down)["tasks"]["species"]
    assert shown["turn"]["stages"] == {"build": 60.0}
    assert shown["turn"]["in_stage"] == pytest.approx(shown["turn"]["seconds"] - 60)
    assert [row["stage"] for row in shown["failures"]] == ["compress"]


def test_status_shows_feedback_that_waits_for_its_sample(down: FlywheelSettings) -> None:
    label = LabelRecorded(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="species",
        sample_id="never-served",
        value="plant",
        source="user",
        annotator="customer-17",
    )
    with open_database(down) as database, database.transaction("test") as tx:
        tx.label_intake.record_labels([label])
    assert found(down)["tasks"]["species"]["labels_without_sample"] == 1
    assert "1 labelled samples never came: labels wait" in status(down)


def test_status_shows_how_far_agents_are_behind(tmp_path: Path, kafka: KafkaSettings) -> None:
    publisher = KafkaPublisher(kafka, "test-status")
    publisher.publish(traffic(3))
    publisher.close()
    settings = workspace(tmp_path, **{"kafka.bootstrap_servers": kafka.servers})
    lag = found(settings)["lag"]
    assert set(lag) == {f"flywheel.{name}" for name in ("triage", "review", "labels", "evidence")}
    assert lag["flywheel.triage"] >= 3
    assert "agents: triage " in status(settings)


def test_lag_is_what_lies_above_the_committed_offsets(kafka: KafkaSettings) -> None:
    from kafka import KafkaConsumer

    group, agents = f"lag-{new_id()}", {}
    agents[group] = ("flywheel.traffic",)
    publisher = KafkaPublisher(kafka, "test-lag")
    publisher.publish(traffic(2))
    consumer = KafkaConsumer(
        *agents[group],
        bootstrap_servers=kafka.servers,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    behind = agent_lag(kafka, agents)[group]
    assert behind >= 2
    read = 0
    while read < behind:
        read += sum(len(records) for records in consumer.poll(timeout_ms=500).values())
    consumer.commit()
    consumer.close()
    assert agent_lag(kafka, agents) == {group: 0}
    publisher.publish(traffic(4))
    publisher.close()
    assert agent_lag(kafka, agents) == {group: 4}


def test_marks_of_transactions_are_nothing_that_waits(kafka: KafkaSettings) -> None:
    from kafka import KafkaConsumer, KafkaProducer
    from kafka.admin import KafkaAdminClient, NewTopic
    from kafka.structs import OffsetAndMetadata

    topic, group = f"marked-{new_id()}", f"lag-{new_id()}"
    admin = KafkaAdminClient(bootstrap_servers=kafka.servers)
    admin.create_topics([NewTopic(topic, 2, 1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=kafka.servers, transactional_id=new_id())
    producer.init_transactions()

    def transaction(records: int, *, partition: int) -> None:
        producer.begin_transaction()
        for _ in range(records):
            producer.send(topic, b"x", partition=partition)
        producer.commit_transaction()

    def lag() -> int:
        return agent_lag(kafka, {group: (topic,)})[group]

    for _ in range(3):  # each leaves a mark behind
        transaction(2, partition=0)
        transaction(1, partition=1)
    assert lag() == 9
    assert not handled_all(kafka, group, (topic,), 0.3)
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=kafka.servers,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    last: dict = {}
    read = 0
    while read < 9:
        for place, records in consumer.poll(timeout_ms=500).items():
            read += len(records)
            last[place] = OffsetAndMetadata(records[-1].offset + 1, "", -1)
    # As an agent does: up to the last record that it handled.
    consumer.commit(last)
    assert lag() == 0
    assert handled_all(kafka, group, (topic,), 0.0)
    transaction(120, partition=0)
    transaction(1, partition=0)
    assert lag() >= 121
    transaction(1, partition=1)
    consumer.close()
    producer.close()
    assert not handled_all(kafka, group, (topic,), 0.0)


def test_status_says_who_carries_what_where_several_do(down: FlywheelSettings) -> None:
    with open_database(down) as database:
        members = [
            Leases(database, role, f"{role}-{host}-1:{new_id()}", tasks=tasks, seconds=600)
            for role, host, tasks in (
                ("controller", "east", ["species"]),
                ("console", "east", []),
                ("controller", "west", ["species"]),
            )
        ]
        for member in members:
            member.round()
    carried = {"console-east-1": [], "controller-east-1": ["species"], "controller-west-1": []}
    assert found(down)["duties"] == carried
    said = "console-east-1 (no task), controller-east-1 (species), controller-west-1 (no task)"
    assert f"processes: {said}" in status(down)
