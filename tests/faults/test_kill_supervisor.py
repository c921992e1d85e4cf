"""kill -9 of the supervisor itself: what it leaves is seen, and ended by `down` and by `up`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka_fixture import free_port
from streams_harness import eventually
from tiny_encoder import make_encoder

from flywheel.ops.orphans import members
from flywheel.ops.supervisor import check_ports, programs
from flywheel.ops.up_lock import holder
from flywheel.settings import load_settings

# Minutes together: .ci/run runs them after `make test`.
pytestmark = pytest.mark.slow


def flywheel(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flywheel", "-w", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def workspace(tmp_path: Path, base_model: Path) -> Path:
    folder = tmp_path / "of topics"
    names = ("kafka", "gateway", "console", "worker", "trainer", "controller")
    ports = {f"{name}_port": free_port() for name in names}
    values = [f"{key}={port}" for key, port in ports.items()] + [f"serving_ports=[{free_port()}]"]
    sets = [part for value in values for part in ("--set", value)]
    made = flywheel(folder, "init", "--base-model", str(base_model), *sets)
    assert made.returncode == 0, made.stderr
    return folder


@contextmanager
def supervised(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A supervisor that has started everything, and the file of what `up` said."""
    said = folder.parent / "up.txt"
    with said.open("w") as output:
        up = subprocess.Popen(
            [sys.executable, "-m", "flywheel", "-w", str(folder), "up"], stderr=output, text=True
        )
    try:
        waited = flywheel(folder, "status", "--wait", "150")
        assert waited.returncode == 0, waited.stderr + said.read_text()
        yield up, said
    finally:
        up.kill()
        up.wait()
        flywheel(folder, "down")


@pytest.fixture
def bystanders(workspace: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that look like this workspace's, each in one way, and are not."""
    environments = [
        {"FLYWHEEL_WORKSPACE": str(workspace)},
        {"SUPERVISOR_SERVER_URL": "unix:///tmp/flywheel-of-another.sock"},
    ]
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "flywheel", "gateway"]
    started = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, cwd=workspace, env={**os.environ, **environment}
        )
        for environment in environments
    ]
    yield started
    for process in started:
        process.communicate()


def all_is_well(workspace: Path, supervisor: int) -> None:
    """What status and doctor say of a stack that runs as it should."""
    status = flywheel(workspace, "status", "--json")
    assert status.returncode == 0
    read = json.loads(status.stdout)
    assert (read["supervisor"], read["orphans"], read["problems"]) == (supervisor, {}, [])
    assert {row["state"] for row in read["processes"]} == {"running"}
    assert [row["problem"] for row in read["processes"] if row["problem"]] == []
    doctor = flywheel(workspace, "doctor")
    assert (doctor.returncode, doctor.stderr) == (0, ""), doctor.stdout


@pytest.mark.timeout(600)
def test_what_a_killed_supervisor_leaves_is_ended_by_up_and_by_down(
    workspace: Path, bystanders: list[subprocess.Popen[bytes]]
) -> None:
    settings = load_settings(workspace, {})
    expected = {program.name for program in programs(settings)}
    with supervised(workspace) as (up, _):
        assert holder(settings) == up.pid
        up.send_signal(signal.SIGKILL)
        up.wait()
        left = {member.name: member.pid for member in members(settings)}
        assert set(left) == expected
        status = flywheel(workspace, "status")
        assert "a supervisor was killed and left processes running" in status.stdout
        assert all(
            re.search(rf"^{name} +left by a killed supervisor.*{left[name]}", status.stdout, re.M)
            for name in expected
        )
        doctor = flywheel(workspace, "doctor")
        assert doctor.returncode == 1
        assert "run without a supervisor" in doctor.stdout
        with supervised(workspace) as (second, said):
            assert "ending what a killed supervisor left" in said.read_text()
            assert all(str(pid) in said.read_text() for pid in left.values())
            all_is_well(workspace, second.pid)
            console = f"http://127.0.0.1:{settings.console.port}"
            eventually(lambda: f" s: console {console}  gateway http" in said.read_text())
            second.send_signal(signal.SIGKILL)
            second.wait()
            assert holder(settings) is None
            last = members(settings)
            down = flywheel(workspace, "down")
    assert {member.name for member in last} == expected
    assert down.returncode == 0, down.stderr
    # A program may be several processes: Feast runs beside the worker.
    assert all(
        re.search(rf"\b{member.name} \(pid ([\d, ]+, )?{member.pid}\b", down.stdout)
        for member in last
    )
    assert members(settings) == []
    check_ports(settings)
    assert "nothing of this workspace runs" in flywheel(workspace, "down").stdout
    assert [process.poll() for process in bystanders] == [None, None]
