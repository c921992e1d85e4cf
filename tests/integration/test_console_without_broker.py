"""The console's process while Kafka is away: it answers, says so, and heals when Kafka comes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from kafka_fixture import end, end_with_parent, forget_dead_sockets, free_port
from streams_harness import eventually

from flywheel.contracts.events import LabelRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.ops.template import flywheel_toml
from flywheel.settings import FlywheelSettings, load_settings
from storage.workspace import open_database
from streams.local_broker import LocalBroker
from streams.reading import read_topic


@pytest.fixture
def settings(tmp_path: Path) -> FlywheelSettings:
    ports = {"kafka_port": free_port(), "console_port": free_port()}
    text = flywheel_toml("species", ["animal", "plant"], "models/base", values=ports)
    (tmp_path / "flywheel.toml").write_text(text, "utf-8")
    return load_settings(tmp_path, {})


@pytest.fixture
def console(settings: FlywheelSettings) -> Iterator[httpx.Client]:
    command = [sys.executable, "-m", "flywheel", "-w", str(settings.workspace), "console"]
    with (settings.workspace / "console.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    end_with_parent(process.pid)
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.console.port}") as client:
        eventually(lambda: answers(client))
        yield client
    process.terminate()
    assert process.wait() == 0


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code > 0
    except httpx.TransportError:
        return False


def checks(client: httpx.Client) -> dict[str, str]:
    found: dict[str, str] = client.get("/healthz").json()["checks"]
    return found


def test_the_console_starts_without_kafka_and_heals_when_it_comes(
    settings: FlywheelSettings, console: httpx.Client
) -> None:
    eventually(lambda: "no Kafka takes connections" in checks(console)["kafka"])
    assert checks(console)["database"] == "ok"
    assert console.get("/healthz").status_code == 503
    assert console.get("/").status_code == 200
    label = LabelRecorded(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="species",
        sample_id="s1",
        value="plant",
        source="expert",
        annotator="ada",
    )
    with open_database(settings) as database, database.transaction("console") as tx:
        tx.outbox.add([label])
    broker = LocalBroker(settings.state, settings.kafka.local_port)
    end_with_parent(broker.start().pid or 0)
    try:
        eventually(lambda: console.get("/healthz").status_code == 200)
        eventually(lambda: len(list(read_topic(settings.kafka, "flywheel.labels"))) == 1)
    finally:
        end(broker)
        forget_dead_sockets()
    assert "no Kafka takes connections" in checks(console)["kafka"]
    assert console.get("/").status_code == 200
