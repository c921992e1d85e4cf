"""Starts what production runs, runs the demo on it, and keeps it running or ends it."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from flywheel.contracts.layout import Layout
from flywheel.demo.data import load_demo_data
from flywheel.demo.plan import Plan
from flywheel.demo.run import Demo, start_up
from flywheel.demo.screen import Screen
from flywheel.demo.workspace import flywheel, make_workspace
from flywheel.errors import FlywheelError, WorkspaceError

START_SECONDS = 120.0


def run_demo(plan: Plan, *, leave: bool) -> int:
    """The exit code: 0 when the wheel turned and nothing failed, was lost or doubled."""
    signal.signal(signal.SIGTERM, _interrupt)  # what was started must be stopped then, too
    _clear(plan)
    screen = Screen()
    screen.phase("Checking the demo's data, making the workspace")
    data = load_demo_data(plan.seed_size, plan.holdout_size)
    make_workspace(plan, data)
    screen.phase("Starting what production runs")
    up = start_up(plan.workspace)
    try:
        _await_healthy(plan, up)
        report = asyncio.run(Demo(plan, data, screen).run())
        problems = _problems(report)
        for problem in problems:
            click.secho(f"not as it should be: {problem}", fg="red")
        if not leave:
            _stay(plan, up)
        return 1 if problems else 0
    except KeyboardInterrupt:
        return 130
    except FlywheelError as error:
        screen.stop()
        click.secho(f"error: {error}", fg="red", err=True)
        click.echo(f"The processes' logs are in {Layout(plan.workspace).logs}", err=True)
        return 1
    finally:
        screen.stop()
        _stop(plan, up)


def _await_healthy(plan: Plan, up: subprocess.Popen[bytes]) -> None:
    """Return when every process is healthy. Raises WorkspaceError when `up` gave up before."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            flywheel(plan.workspace, "status", "--wait", "5")
        except WorkspaceError:
            if up.poll() is not None:
                raise WorkspaceError("`flywheel up` ended; it says why above") from None
            if time.monotonic() > deadline:
                raise
        else:
            return


def _clear(plan: Plan) -> None:
    """Remove what an earlier demo left; refuse a folder that is not a demo's."""
    if not plan.workspace.exists() or not any(plan.workspace.iterdir()):
        return
    if not (plan.workspace / "seed.jsonl").exists():
        raise WorkspaceError(
            f"{plan.workspace} holds something that is no demo: choose another --workspace"
        )
    if _runs(plan.workspace):
        raise WorkspaceError(
            f"a demo runs in {plan.workspace}: stop it with `flywheel -w {plan.workspace} down`"
        )
    shutil.rmtree(plan.workspace)


def _runs(workspace: Path) -> bool:
    """Whether a supervisor runs there, or what a killed one left. A flywheel.toml that cannot be
    read says nothing, and nothing starts with it."""
    asked = subprocess.run(
        [sys.executable, "-m", "flywheel", "-w", str(workspace), "status", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        read = json.loads(asked.stdout)
    except ValueError:
        return False
    return read["supervisor"] is not None or bool(read["orphans"])


def _problems(report: dict[str, object]) -> list[str]:
    counts = report["counts"]
    assert isinstance(counts, dict)  # noqa: S101 - built by write_report
    names = ("failed_requests", "lost", "doubled")
    return [f"{name.replace('_', ' ')}: {counts[name]}" for name in names if counts[name]]


def _stay(plan: Plan, up: subprocess.Popen[bytes]) -> None:
    urls = json.loads(flywheel(plan.workspace, "status", "--urls"))
    click.echo(f"\nConsole  {urls['console']}\nGateway  {urls['gateway']}")
    click.echo(f"Report   {plan.workspace / 'demo-report.json'}\nCtrl-C ends it all.")
    up.wait()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _stop(plan: Plan, up: subprocess.Popen[bytes]) -> None:
    if up.poll() is None:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(60)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()
            flywheel(plan.workspace, "down")  # what it had started
