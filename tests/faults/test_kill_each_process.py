"""kill -9 of every process while the wheel turns: the demo ends, nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
from demo_run import report, start_demo

VICTIMS = ("gateway", "worker", "console", "trainer", "controller", "kafka", "model")


def pids(folder: Path) -> dict[str, int]:
    """Name → pid of the supervised processes; empty while there is no supervisor."""
    from flywheel.errors import FlywheelError
    from flywheel.ops.supervisor import Supervisor
    from flywheel.settings import load_settings

    try:
        rows = Supervisor(load_settings(folder, {})).processes()
    except FlywheelError:
        return {}
    return {name: row["pid"] for name, row in rows.items() if row["statename"] == "RUNNING"}


def traffic_flows(folder: Path) -> bool:
    spill = list((folder / ".flywheel" / "spill").glob("*/*.log"))
    return any(path.stat().st_size > 0 for path in spill)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_each_process_during_a_turn(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    demo = start_demo(folder, "--turns", "1", "--no-drill", "--holdout", "200")
    killed: list[str] = []
    try:
        waiting = list(VICTIMS)
        while demo.poll() is None:
            time.sleep(1.0)
            if not waiting or not traffic_flows(folder):
                continue
            running = pids(folder)
            name = next((n for n in running if n.startswith(waiting[0])), None)
            if name is None:
                continue
            os.kill(running[name], signal.SIGKILL)
            killed.append(waiting.pop(0))
            time.sleep(4.0)
    finally:
        if demo.poll() is None:
            demo.terminate()
        try:
            demo.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(demo.pid, signal.SIGKILL)
    found = report(folder)
    assert killed == list(VICTIMS), f"the demo ended before all were killed: {killed}"
    assert found["counts"]["lost"] == found["counts"]["doubled"] == 0
    assert found["counts"]["traffic_recorded"] == found["counts"]["requests"] > 50
    # A turn that was killed makes one release; labels that came meanwhile may start another.
    datasets = [row["dataset_version"] for row in found["releases"]]
    assert len(datasets) == len(set(datasets)) >= 2
