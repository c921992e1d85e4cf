"""Runs `flywheel demo` on a small sample, in a folder and on ports of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kafka_fixture import free_port

# Small enough for two cores and two minutes: fewer labels a turn, fewer requests a step.
SMALL = {
    "min_new_labels": 40,
    "min_labels": 20,
    "min_requests": 8,
    "steps": [0.3],
    "accuracy_margin": 0.15,
    "max_regression": 0.1,
    "compression.margin": 0.1,
    "training.epochs": 3,
    "training.min_steps": 30,
}


def ports() -> dict[str, object]:
    """Free ports for every process."""
    base = free_port()
    return {
        "kafka_port": base,
        "gateway_port": base + 2,
        "console_port": base + 3,
        "serving_ports": [base + 4, base + 5],
        "worker_port": base + 6,
        "trainer_port": base + 7,
        "controller_port": base + 8,
    }


def start_demo(
    folder: Path, *arguments: str, small: bool = True, **values: object
) -> subprocess.Popen[str]:
    """The demo as a subprocess; its output goes to demo.log beside the workspace."""
    pairs = {**(SMALL if small else {}), **ports(), **values}
    settings = [item for k, v in pairs.items() for item in ("--set", f"{k}={json.dumps(v)}")]
    command = [sys.executable, "-m", "flywheel", "demo", "--workspace", str(folder), "--exit"]
    with (folder.parent / "demo.log").open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            [*command, *arguments, *settings],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200"},
            text=True,
            start_new_session=True,
        )


def report(folder: Path) -> dict[str, Any]:
    """demo-report.json; when it is missing, the demo's output explains why."""
    path = folder / "demo-report.json"
    assert path.exists(), (folder.parent / "demo.log").read_text("utf-8")[-6000:]
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded
