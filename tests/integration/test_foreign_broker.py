"""Two workspaces and one port: no command of one takes the other's broker for its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kafka_fixture import end_with_parent, forget_dead_sockets, free_port, local_kafka
from streams_harness import traffic

from flywheel.cli import cli
from flywheel.errors import BrokerError, ForeignBroker
from flywheel.ops import ingest
from flywheel.ops.template import flywheel_toml
from flywheel.settings import FlywheelSettings, KafkaSettings, load_settings
from streams.follower import Follower
from streams.local_broker import LocalBroker
from streams.publisher import KafkaPublisher
from streams.reading import read_topic
from streams.topics import ensure_topics, wait_for_broker


def workspace(folder: Path, port: int) -> FlywheelSettings:
    folder.mkdir(parents=True, exist_ok=True)
    text = flywheel_toml("species", ["animal", "plant"], "base", values={"kafka_port": port})
    (folder / "flywheel.toml").write_text(text, "utf-8")
    return load_settings(folder, {})


def run(settings: FlywheelSettings, *arguments: str) -> Result:
    command = ["-w", str(settings.workspace), *arguments]
    return CliRunner().invoke(cli, command, catch_exceptions=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlywheelSettings]:
    """A workspace whose broker runs, with events in it."""
    folder = tmp_path_factory.mktemp("first")
    with local_kafka(folder / ".flywheel") as kafka:
        settings = workspace(folder, kafka.local_port)
        publisher = KafkaPublisher(settings.kafka, "test")
        publisher.publish(traffic(3, task="species"))
        publisher.close()
        yield settings


@pytest.fixture
def second(tmp_path: Path, first: FlywheelSettings) -> FlywheelSettings:
    """A new workspace at the same port, whose `up` failed: it has no broker."""
    settings = workspace(tmp_path / "second", first.kafka.local_port)
    (settings.workspace / "seed.csv").write_text("text,label\nan oak,plant\na cow,animal\n")
    return settings


def events(settings: FlywheelSettings) -> int:
    return len(list(read_topic(settings.kafka, "flywheel.traffic")))


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest", "seed.csv"),
        ("ingest", "seed.csv", "--no-wait"),
        ("dead-letters", "list"),
        ("dead-letters", "replay", "--all"),
        ("topics",),
    ],
    ids=" ".join,
)
def test_what_needs_the_broker_refuses_another_workspaces(
    first: FlywheelSettings, second: FlywheelSettings, arguments: tuple[str, ...]
) -> None:
    before = events(first)
    told = [str(second.workspace / word) if word.endswith(".csv") else word for word in arguments]
    refused = run(second, *told)
    assert isinstance(refused.exception, ForeignBroker)
    cluster = LocalBroker(first.state, 1).status().cluster_id
    said = str(refused.exception)
    assert f"port {first.kafka.local_port} is answered by another Kafka (cluster {cluster})" in said
    assert "never started" in said
    assert "kafka.local_port" in said
    assert "`flywheel up`" in said
    assert events(first) == before


def test_status_and_doctor_say_it_and_count_nothing(second: FlywheelSettings) -> None:
    standing = json.loads(run(second, "status", "--json").output)
    assert standing["lag"] is None
    assert any("another Kafka" in problem for problem in standing["problems"])
    found = json.loads(run(second, "doctor", "--json").output)
    assert (found["lost"], found["waiting"], found["groups"]) == (0, 0, [])
    assert any("another Kafka" in problem for problem in found["problems"])
    assert run(second, "doctor").exit_code == 1


def test_a_worker_ends_at_once(second: FlywheelSettings) -> None:
    command = [sys.executable, "-m", "flywheel", "-w", str(second.workspace), "worker"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 1
    assert "another Kafka" in done.stderr + done.stdout


def test_a_follower_hears_nothing_of_another_workspace(
    first: FlywheelSettings, second: FlywheelSettings
) -> None:
    heard: list[object] = []
    others = Follower(second.kafka, ["flywheel.traffic"], heard.append, "test-others")
    own = Follower(first.kafka, ["flywheel.traffic"], lambda _: None, "test-own")
    others.start()
    own.start()
    try:
        assert own.caught_up(20)
        assert not others.caught_up(3)
    finally:
        others.stop()
        own.stop()
    assert not heard


def test_the_workspace_itself_works(
    first: FlywheelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no worker to wait for.
    monkeypatch.setattr(ingest, "CATCH_UP_SECONDS", 0.0)
    before = events(first)
    file = first.workspace / "seed.csv"
    file.write_text("text,label\na fern,plant\n")
    assert run(first, "ingest", str(file), "--no-wait").exit_code == 0
    assert events(first) == before + 1
    assert json.loads(run(first, "doctor", "--json").output)["waiting"]


def test_a_copied_workspace_has_no_broker_of_its_own(
    first: FlywheelSettings, tmp_path: Path
) -> None:
    copied = workspace(tmp_path / "copied", first.kafka.local_port)
    kafka = first.state / "kafka"
    data = copied.state / "kafka" / "data"
    data.mkdir(parents=True)
    shutil.copy(kafka / "data" / "meta.properties", data)
    shutil.copy(kafka / "broker.lock", data.parent)
    with pytest.raises(ForeignBroker, match="which does not run"):
        wait_for_broker(copied.kafka)


def test_settings_of_no_workspace_take_the_broker_that_is_there(first: FlywheelSettings) -> None:
    wait_for_broker(KafkaSettings(local_port=first.kafka.local_port), 5)
    wait_for_broker(KafkaSettings(bootstrap_servers=first.kafka.servers), 5)


def test_a_client_that_stays_notices_whose_broker_answers(tmp_path: Path) -> None:
    port = free_port()
    ours, theirs = workspace(tmp_path / "ours", port), workspace(tmp_path / "theirs", port)
    broker, other = (LocalBroker(one.state, port) for one in (ours, theirs))
    publisher = KafkaPublisher(ours.kafka, "test")
    try:
        with pytest.raises(BrokerError, match="no Kafka takes connections"):
            publisher.publish(traffic(1))
        end_with_parent(broker.start().pid or 0)
        ensure_topics(ours.kafka)
        publisher.publish(traffic(1))
        broker.stop()
        end_with_parent(other.start().pid or 0)
        with pytest.raises(ForeignBroker, match="does not run"):
            publisher.publish(traffic(1))
        assert events(theirs) == 0
    finally:
        publisher.close()
        broker.stop()
        other.stop()
        forget_dead_sockets()
