"""Two gateways, consoles, workers and controllers in one workspace, one of each killed with -9 and
not started again: nothing that was answered is lost or doubled, and the others go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from kafka_fixture import free_port
from test_kill_each_process import (
    TASK,
    Clients,
    Expert,
    flywheel,
    folder,
    supervised,
    until,
)

from flywheel.settings import FlywheelSettings, load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
__all__ = ["folder"]

SECOND = ("gateway", "console", "worker", "controller")


@contextmanager
def second_of_each(settings: FlywheelSettings) -> Iterator[Mapping[str, int]]:
    """Name → pid of a second process of each kind, well and on a port of its own."""
    started: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
    with (settings.workspace.parent / "second.log").open("wb") as log:
        for name in SECOND:
            port = free_port()
            command = [sys.executable, "-m", "flywheel", "-w", str(settings.workspace)]
            process = subprocess.Popen(
                [*command, name, "--port", str(port)], stdout=log, stderr=subprocess.STDOUT
            )
            started[name] = process, port
        try:
            for name, (process, port) in started.items():
                well(process, name, port)
            ports = {name: port for name, (_, port) in started.items()}
            yield ports | {f"{name} pid": process.pid for name, (process, _) in started.items()}
        finally:
            for process, _ in started.values():
                process.kill()
                process.wait()


def well(process: subprocess.Popen[bytes], name: str, port: int) -> None:
    deadline = time.monotonic() + 180
    while True:
        assert process.poll() is None, f"{name} ended"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{name} is not well"
        time.sleep(0.2)


def at(settings: FlywheelSettings, kind: str, port: int) -> FlywheelSettings:
    """The settings of whoever asks the second process of a kind."""
    changed = getattr(settings, kind).model_copy(update={"port": port})
    return settings.model_copy(update={kind: changed})


def test_one_of_each_dies_and_the_other_goes_on(folder: Path) -> None:
    settings = load_settings(folder, {})
    with supervised(folder):
        flywheel(folder, "ingest", str(folder.parent / "holdout.jsonl"), "--split", "holdout")
        flywheel(folder, "ingest", str(folder.parent / "seed.jsonl"))
        until(folder, "a release", lambda found: found["answers"] and found["answers"]["ready"])
        answered: list[str] = []
        with second_of_each(settings) as second:
            duties = json.loads(flywheel(folder, "status", "--json"))["duties"]
            assert len([name for name in duties if name.startswith("controller-")]) == 2
            assert sorted(task for tasks in duties.values() for task in tasks) == [TASK]
            here, there = Clients(settings), Clients(at(settings, "gateway", second["gateway"]))
            with here, Expert(settings), Expert(at(settings, "console", second["console"])):
                with there:
                    before = until(folder, "labels", lambda f: f["labels"]["expert"] >= 20)
                # Its clients have their answers; it goes with what it had not published yet.
                os.kill(second["gateway pid"], signal.SIGKILL)
                for name in ("worker", "controller"):
                    os.kill(second[f"{name} pid"], signal.SIGKILL)
                until(
                    folder,
                    "more labels",
                    lambda f: f["labels"]["expert"] >= before["labels"]["expert"] + 20,
                )
            os.kill(second["console pid"], signal.SIGKILL)
            answered = [*here.answered, *there.answered]
        expected = folder.parent / "answered.txt"
        expected.write_text("".join(f"{one}\n" for one in answered), "utf-8")
        found = json.loads(
            flywheel(folder, "doctor", "--json", "--expect", str(expected), "--wait", "60")
        )
    assert found["lost"] == found["doubled"] == 0, found
    assert found["traffic_recorded"] == len(answered) > 40
