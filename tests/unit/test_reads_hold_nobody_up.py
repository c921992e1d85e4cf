"""Whatever only reads neither waits for SQLite's one writer nor keeps it from writing."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from rollout_memory import Fleet

import flywheel.processes.trainer
import flywheel.rollout.control
from flywheel.cli import cli
from flywheel.console.app import create_app
from flywheel.contracts.ids import new_id, utc_now
from flywheel.processes.leasing import Leases
from flywheel.processes.trainer import Trainer
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick
from flywheel.rollout.ports import Command
from flywheel.settings import load_settings
from storage.database import Database
from storage.objects import open_artefacts
from storage.workspace import open_database

sys.path.append(str(Path(__file__).parents[1] / "browser"))
from console_places import vendored_assets
from console_seed import TASK, console_settings, opened, release_id, seed

# Rows of the story's task, for the parameters of a path.
GIVEN = {"task": TASK, "release": release_id(4), "rollout_id": "broken", "command_id": "c"}


@contextmanager
def writing(path: Path, seconds: float = 0.0) -> Iterator[None]:
    """Another process that holds the database's write lock."""
    with closing(sqlite3.connect(path, timeout=seconds, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def story(tmp_path: Path) -> Iterator[tuple[Path, Database]]:
    """A database in which a rollout is running, and its file."""
    path = tmp_path / "flywheel.db"
    database = opened(f"sqlite:///{path}", seed)
    yield path, database
    database.dispose()


def reads(app: FastAPI) -> list[str]:
    """Every path that may be got, but for the one that claims samples for whoever asks."""
    pages = [
        "/",
        *(f"/{page}/{TASK}" for page in ("review", "rollout", "releases")),
        f"/rollout/{TASK}?rollout=broken",
        f"/releases/{TASK}/{release_id(4)}",
        "/healthz",
    ]
    apis = app.openapi()["paths"]
    return pages + [
        path.format(**GIVEN)
        for path, methods in apis.items()
        if "get" in methods and not path.endswith("/next")
    ]


async def statuses(app: FastAPI) -> dict[str, int]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost"
    ) as client:
        return {path: (await client.get(path)).status_code for path in reads(app)}


async def test_every_page_and_every_api_that_reads_answers(
    tmp_path: Path, story: tuple[Path, Database]
) -> None:
    path, database = story
    settings = console_settings(tmp_path)
    app = create_app(
        settings,
        partial(database.transaction, "console"),
        vendored_assets(),
        artefacts=open_artefacts(settings),
        reading=partial(database.transaction, read_only=True),
    )
    with writing(path):
        found = await statuses(app)
    assert len(found) >= 12
    assert {path: status for path, status in found.items() if status >= 500} == {}
    assert found[f"/rollout/{TASK}"] == found[f"/api/rollouts/{TASK}"] == 200


@pytest.mark.parametrize("asked", [False, True])
def test_the_controller_collects_evidence_while_others_write(
    story: tuple[Path, Database], monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    path, database = story
    collected = watched(monkeypatch, flywheel.rollout.control, path)
    if asked:
        with database.transaction("console") as tx:
            running = tx.rollouts.active(TASK)
            assert running is not None
            tx.commands.add(
                Command(
                    command_id=new_id(),
                    task=TASK,
                    kind="pause",
                    by="ada",
                    why="tonight",
                    at=utc_now(),
                    rollout_id=running.rollout_id,
                )
            )
    event = controller_tick(database)
    assert collected == ["collected"]
    assert (event is not None) is asked


def test_a_tick_that_changes_nothing_needs_no_write_lock(story: tuple[Path, Database]) -> None:
    path, database = story
    controller_tick(database)
    with writing(path):
        assert controller_tick(database) is None


def test_the_trainer_counts_labels_while_others_write(
    tmp_path: Path, story: tuple[Path, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, database = story
    counted = watched(monkeypatch, flywheel.processes.trainer, path)
    monkeypatch.setattr(flywheel.processes.trainer, "decide", lambda *_: None)
    leases = Leases(database, "trainer", "one")
    Trainer(console_settings(tmp_path), database, threading.Event(), leases).step()
    assert counted == ["collected"]


def test_commands_that_only_show_something_do_so(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["-w", str(tmp_path), *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run("init", "--task", TASK, "--label", "a", "--label", "b")
    settings = load_settings(tmp_path)
    with open_database(settings):
        path = Path(settings.database.removeprefix("sqlite:///"))
        with writing(path):
            assert "no rollout yet" in run("rollout", "show")
            assert "http://" in run("review")
            run("datasets", "list")
            run("releases", "list")


def watched(monkeypatch: pytest.MonkeyPatch, module: Any, path: Path) -> list[str]:
    """Makes ``module.gather`` fail unless others can write while it works; notes its calls."""
    gather: Callable[..., Any] = module.gather
    calls = []

    def and_look(*values: Any) -> Any:
        with writing(path):
            calls.append("collected")
            return gather(*values)

    monkeypatch.setattr(module, "gather", and_look)
    return calls


def controller_tick(database: Database) -> object:
    """One step of the controller, whose settings ask for more evidence than there is."""
    patient = RolloutSettings(min_requests=10**6, min_labels=10**5, max_minutes=10**6)
    return tick(
        partial(database.transaction, "controller"),
        partial(database.transaction, read_only=True),
        TASK,
        patient,
        Fleet(),
        utc_now() + timedelta(seconds=1),
    )
