"""What a killed supervisor left: known by proof, ended in order, by force when it must be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka_fixture import end_with_parent

from flywheel.ops import orphans
from flywheel.ops.orphans import Member
from flywheel.ops.supervisor import BROKER, socket_path
from flywheel.ops.template import flywheel_toml
from flywheel.settings import FlywheelSettings, load_settings

OBEDIENT = """
import pathlib, signal, sys
def end(*_):
    with pathlib.Path(sys.argv[1]).open("a") as order:
        print(sys.argv[2], file=order)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def settings(tmp_path: Path) -> FlywheelSettings:
    (tmp_path / "flywheel.toml").write_text(flywheel_toml("species", ["a", "b"], "base"), "utf-8")
    return load_settings(tmp_path, {})


@contextmanager
def left(settings: FlywheelSettings, name: str, script: str) -> Iterator[subprocess.Popen[str]]:
    """A process as the workspace's supervisor would have started it."""
    environment = {
        **os.environ,
        "SUPERVISOR_SERVER_URL": f"unix://{socket_path(settings)}",
        "SUPERVISOR_PROCESS_NAME": name,
    }
    order = str(settings.workspace / "order.txt")
    process = subprocess.Popen(
        [sys.executable, "-c", script, order, name],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    end_with_parent(process.pid)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_broker_is_asked_last(settings: FlywheelSettings) -> None:
    with (
        left(settings, BROKER, OBEDIENT) as broker,
        left(settings, "worker", OBEDIENT) as worker,
    ):
        found = orphans.members(settings)
        assert set(found) == {Member(BROKER, broker.pid), Member("worker", worker.pid)}
        assert orphans.end(settings) == []
        assert (broker.wait(), worker.wait()) == (0, 0)
    order = (settings.workspace / "order.txt").read_text("utf-8").split()
    assert order == ["worker", BROKER]
    assert orphans.members(settings) == []


def test_what_does_not_end_when_asked_is_killed(
    settings: FlywheelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "ASKED_SECONDS", 0.2)
    with left(settings, "trainer", STUBBORN) as trainer:
        assert orphans.end(settings) == []
        assert trainer.wait() == -9


def test_processes_of_another_workspace_are_not_ours(
    settings: FlywheelSettings, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "flywheel.toml").write_text(flywheel_toml("species", ["a", "b"], "base"), "utf-8")
    theirs = load_settings(other, {})
    with left(theirs, "gateway", STUBBORN) as gateway:
        assert orphans.members(settings) == []
        assert orphans.end(settings) == []
        assert orphans.members(theirs) == [Member("gateway", gateway.pid)]
        assert gateway.poll() is None


def test_the_demo_removes_no_folder_in_which_something_runs(settings: FlywheelSettings) -> None:
    (settings.workspace / "seed.jsonl").write_text("", "utf-8")
    with left(settings, "gateway", STUBBORN) as gateway:
        demo = subprocess.run(
            [sys.executable, "-m", "flywheel", "demo", "--workspace", str(settings.workspace)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert demo.returncode == 1
        assert f"a demo runs in {settings.workspace}" in demo.stderr
        assert gateway.poll() is None
    assert (settings.workspace / "flywheel.toml").exists()
