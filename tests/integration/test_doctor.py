"""`flywheel doctor` on a real broker: what waits is no fault, what cannot work is one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka_fixture import free_port, local_kafka
from streams_harness import traffic
from tiny_encoder import make_encoder

from flywheel.ops.template import flywheel_toml
from flywheel.settings import KafkaSettings
from streams.publisher import KafkaPublisher


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """A broker of this module alone: doctor looks at every event there is."""
    with local_kafka(tmp_path_factory.mktemp("kafka")) as settings:
        yield settings


@pytest.fixture
def workspace(tmp_path: Path, broker: KafkaSettings) -> Path:
    base = make_encoder(tmp_path / "base")
    values = {"kafka.bootstrap_servers": broker.servers}
    text = flywheel_toml("species", ["animal", "plant"], str(base), values=values)
    (tmp_path / "flywheel.toml").write_text(text, "utf-8")
    return tmp_path


def doctor(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flywheel", "-w", str(workspace), "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def found(workspace: Path) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(doctor(workspace, "--json").stdout)
    return counts


def test_events_that_wait_for_the_worker_are_no_fault(
    workspace: Path, broker: KafkaSettings
) -> None:
    publisher = KafkaPublisher(broker, "test-doctor")
    publisher.publish(traffic(3, task="species"))
    publisher.close()
    done = doctor(workspace)
    assert done.returncode == 0, done.stdout
    waiting = found(workspace)["waiting"]
    assert waiting >= 3
    assert f"waiting: {waiting} events" in done.stdout
    assert "all is well" in done.stdout


def test_what_the_tasks_lack_is_said_and_is_no_fault(workspace: Path) -> None:
    done = doctor(workspace)
    assert done.returncode == 0, done.stdout
    assert "advice: species: no holdout yet" in done.stdout
    assert "animal: 0 to train on, 0 held out" in done.stdout
    assert found(workspace)["labels"]["species"]["plant"] == {"train": 0, "holdout": 0}


def test_a_base_model_that_is_not_there_is_a_fault(workspace: Path) -> None:
    (workspace / "base" / "model.safetensors").unlink()
    done = doctor(workspace)
    assert done.returncode == 1
    assert "problem: tasks.species.training.base_model: " in done.stdout
    assert "no weights" in done.stdout


def test_the_base_model_is_looked_at_without_a_broker_too(
    workspace: Path, broker: KafkaSettings
) -> None:
    (workspace / "base" / "config.json").unlink()
    config = workspace / "flywheel.toml"
    assert broker.servers in found(workspace)["uses"]["broker"]
    away = config.read_text("utf-8").replace(broker.servers, f"127.0.0.1:{free_port()}")
    config.write_text(away, "utf-8")
    problems = found(workspace)["problems"]
    assert len(problems) == 2
    assert "no config.json" in problems[0]
    assert "no Kafka takes connections" in problems[1]
