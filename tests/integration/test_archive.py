"""The archive: written before rows go, whole or not at all, and asked where it lies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from new_database import new_database
from s3_server import S3Server
from settings_file import load

from flywheel.cli import cli
from flywheel.contracts.events import ReviewRequested, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import ArtefactStoreError
from flywheel.retention.ports import Kind
from flywheel.retention.sweep import sweep
from flywheel.settings import FlywheelSettings
from flywheel.upkeep.erasure import erase
from flywheel.upkeep.retention import remove_rows
from storage.archive import RowArchive
from storage.archive_query import query
from storage.database import Database
from storage.objects import open_blobs
from storage.objects.folder import FolderBlobs
from storage.repositories.archived import ArchiveFile, SqlArchiveFiles
from storage.repositories.expiry import SqlExpiry

TOML = """
[retention]
traffic = 30
archive = true
{more}
[tasks.species]
labels = ["animal", "plant"]
training.base_model = "/models/base"
"""
QUERY = ("archive", "query")
OLD = utc_now().replace(hour=9) - timedelta(days=60)


def sent(sample: str, at: datetime = OLD, **other: Any) -> TrafficRecorded:
    values: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": at,
        "task": "species",
        "sample_id": sample,
        "content": f"text of {sample}",
        "unit": "kim",
        "release": "r1",
        "output": "animal",
        "confidence": 0.75,
    }
    return TrafficRecorded(**(values | other))


@pytest.fixture(params=["folder", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> FlywheelSettings:
    if request.param == "folder":
        return load(tmp_path, TOML.format(more=""))
    server: S3Server = request.getfixturevalue("s3")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return load(tmp_path, TOML.format(more=f"[artefacts]\nurl = '{server.url(new_id())}'"))


@pytest.fixture
def database(settings: FlywheelSettings) -> Iterator[Database]:
    made = new_database(settings.database)
    yield made
    made.dispose()


def keep(database: Database, *events: TrafficRecorded) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples(events)


def asked(settings: FlywheelSettings, database: Database, sql: str) -> list[tuple[Any, ...]]:
    pytest.importorskip("duckdb")
    with database.transaction(read_only=True) as tx:
        files = tx.archived.all()
    return query(settings, files, sql)[1]


def test_what_goes_can_be_asked_for_afterwards(
    settings: FlywheelSettings, database: Database
) -> None:
    keep(database, sent("a"), sent("b", OLD + timedelta(days=1)), sent("young", utc_now()))
    went = remove_rows(settings, database, utc_now())
    assert went is not None
    assert went["species"]["traffic"] == 2
    with database.transaction(read_only=True) as tx:
        files = tx.archived.all()
    assert [(file.source, file.rows) for file in files] == [("traffic", 1), ("traffic", 1)]
    rows = asked(
        settings,
        database,
        "SELECT sample_id, text, confidence, occurred_at FROM traffic ORDER BY 1",
    )
    assert [row[:3] for row in rows] == [("a", "text of a", 0.75), ("b", "text of b", 0.75)]
    assert rows[0][3].astimezone(UTC) == OLD


def test_an_erased_user_is_not_in_the_archive_any_more(
    settings: FlywheelSettings, database: Database
) -> None:
    keep(database, sent("a"), sent("b", unit="bo"), sent("c", OLD - timedelta(days=2)))
    remove_rows(settings, database, utc_now())
    before = {file.key for file in listed(database)}
    done = erase(settings, database, ["species"], user=None, sample="a", by="ada", why="asked")
    assert done.counts["archived rows"] == 1
    rows = asked(settings, database, "SELECT sample_id FROM traffic ORDER BY 1")
    assert rows == [("b",), ("c",)]
    blobs = open_blobs(settings)
    gone = before - {file.key for file in listed(database)}
    assert len(gone) == 1
    assert all(blobs.size(key) is None for key in gone)


def listed(database: Database) -> list[Any]:
    with database.transaction(read_only=True) as tx:
        return list(tx.archived.all())


@pytest.fixture
def workspace(tmp_path: Path) -> FlywheelSettings:
    return load(tmp_path, TOML.format(more=""))


@pytest.fixture
def local(workspace: FlywheelSettings) -> Iterator[Database]:
    made = new_database(workspace.database)
    yield made
    made.dispose()


def test_nothing_goes_while_the_archive_takes_nothing(
    workspace: FlywheelSettings, local: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(local, sent("a"))

    def away(self: FolderBlobs, key: str, file: Path) -> None:
        raise ArtefactStoreError("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(FolderBlobs, "write_file", away)
        with pytest.raises(ArtefactStoreError):
            remove_rows(workspace, local, utc_now())
    with local.transaction(read_only=True) as tx:
        assert tx.overview.texts("species", ["a"]) == {"a": "text of a"}
    assert listed(local) == []
    remove_rows(workspace, local, utc_now())
    assert len(listed(local)) == 1


def test_what_was_archived_twice_is_read_once(
    workspace: FlywheelSettings, local: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process was killed after it had archived and before it had removed."""
    keep(local, sent("a"), sent("b"))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SqlExpiry, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_rows(workspace, local, utc_now())
    remove_rows(workspace, local, utc_now())
    assert [file.rows for file in listed(local)] == [2, 2]
    assert asked(workspace, local, "SELECT sample_id FROM traffic ORDER BY 1") == [("a",), ("b",)]


def test_a_file_that_was_begun_and_never_finished_is_taken_away(
    workspace: FlywheelSettings, local: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(local, sent("a"))
    blobs = open_blobs(workspace)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SqlArchiveFiles, "written", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_rows(workspace, local, utc_now())
    with local.transaction(read_only=True) as tx:
        (left,) = tx.archived.unfinished(utc_now())
    assert blobs.size(left.key) is not None
    archive = RowArchive(local, blobs)
    assert archive.recover(utc_now()) == 0, "somebody may be at it"
    assert archive.recover(utc_now() + timedelta(days=1)) == 1
    assert blobs.size(left.key) is None


def test_an_erasure_leaves_nothing_in_a_file_that_was_never_finished(
    workspace: FlywheelSettings, local: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(local, sent("a"))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SqlArchiveFiles, "written", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_rows(workspace, local, utc_now())
    with local.transaction(read_only=True) as tx:
        (left,) = tx.archived.unfinished(utc_now())
    erase(workspace, local, ["species"], user="kim", sample=None, by="ada", why="asked")
    assert open_blobs(workspace).size(left.key) is None


def test_a_task_is_archived_by_itself_where_another_has_the_same_ids(
    workspace: FlywheelSettings, local: Database
) -> None:
    with local.transaction() as tx:
        tx.intake.open([queued("a", task) for task in ("species", "other")])
        tx.intake.withdraw("species", ["a"])
        tx.intake.withdraw("other", ["a"])
    keeping: dict[Kind, datetime] = {"review": utc_now()}
    archive = RowArchive(local, open_blobs(workspace))
    reading = lambda: local.transaction(read_only=True)  # noqa: E731
    went = sweep(local.transaction, reading, "species", keeping, archive)
    assert went["review_tasks"] == 1
    assert [(file.task, file.source, file.rows) for file in listed(local)] == [
        ("species", "review_tasks", 1)
    ]


def queued(sample: str, task: str) -> ReviewRequested:
    return ReviewRequested(
        event_id=new_id(),
        occurred_at=OLD,
        task=task,
        sample_id=sample,
        content=f"text of {sample} for {task}",
        reason="uncertain",
        priority=50,
        inclusion_probability=1.0,
        audit=False,
    )


def test_commands_show_and_ask_it(workspace: FlywheelSettings, local: Database) -> None:
    keep(local, sent("a"))
    run = CliRunner().invoke
    planned = run(cli, ["-w", str(workspace.workspace), "retention", "plan", "--json"])
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.output)[0]["rows"] == {"traffic": 1}
    ran = run(cli, ["-w", str(workspace.workspace), "retention", "run", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.output)[0]["rows"] == {"traffic": 1}
    shown = run(cli, ["-w", str(workspace.workspace), "archive", "list", "--json"])
    assert [file["rows"] for file in json.loads(shown.output)] == [1]
    pytest.importorskip("duckdb")
    sql = "SELECT count(*) AS n FROM traffic"
    got = run(cli, ["-w", str(workspace.workspace), "archive", "query", sql, "--json"])
    assert json.loads(got.output) == [{"n": 1}]
    document = (Path(__file__).parents[2] / "docs" / "run-it.md").read_text("utf-8")
    [documented] = re.findall(r'^flywheel archive query "(.+)"$', document, re.MULTILINE)
    by_day = run(cli, ["-w", str(workspace.workspace), "archive", "query", documented])
    assert by_day.exit_code == 0, by_day.output
    wrong = run(cli, ["-w", str(workspace.workspace), "archive", "query", "SELECT x FROM nothing"])
    assert wrong.exit_code != 0
    assert "traffic" in str(wrong.exception), "it says which tables there are"


def earlier(settings: FlywheelSettings, database: Database, day: str, **columns: list[Any]) -> None:
    """A file of the archive that an earlier version wrote, whose table had other columns."""
    source = "traffic"
    table = pyarrow.table(columns)
    key = f"archive/{source}/task=species/day={day}/{new_id()}.parquet"
    file = settings.layout.artefacts / key
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file)
    with database.transaction() as tx:
        tx.archived.begin(
            ArchiveFile(
                key=key, task="species", source=source, day=day, rows=len(table), begun_at=OLD
            )
        )
        tx.archived.written(key, file.stat().st_size)


@pytest.mark.parametrize("day", ["2020-01-01", f"{utc_now():%Y-%m-%d}"], ids=["first", "last"])
def test_files_of_before_a_migration_are_read_with_those_of_after(
    workspace: FlywheelSettings, local: Database, day: str
) -> None:
    keep(local, sent("new"))
    remove_rows(workspace, local, utc_now())
    earlier(
        workspace,
        local,
        day,
        event_id=["e1", "e2"],
        task=["species"] * 2,
        sample_id=["old", "older"],
        input=["said then", "as well"],  # the text's name, say
        confidence=[1, 0],  # a whole number, say
    )
    sql = "SELECT sample_id, text, input, unit, confidence FROM traffic ORDER BY sample_id"
    assert asked(workspace, local, sql) == [
        ("new", "text of new", None, "kim", 0.75),
        ("old", None, "said then", None, 1.0),
        ("older", None, "as well", None, 0.0),
    ]
    assert asked(workspace, local, "SELECT count(*) FROM traffic") == [(3,)]
    # What names no user is nobody's; by its id it goes.
    erase(workspace, local, ["species"], user="kim", sample=None, by="ada", why="asked")
    erase(workspace, local, ["species"], user=None, sample="old", by="ada", why="asked")
    assert asked(workspace, local, "SELECT sample_id FROM traffic") == [("older",)]


def test_days_are_of_utc_wherever_it_is_asked(workspace: FlywheelSettings, local: Database) -> None:
    late = OLD.replace(hour=23, minute=59)
    keep(local, sent("late", late), sent("next", late + timedelta(minutes=2)))
    remove_rows(workspace, local, utc_now())
    days = [file.day for file in listed(local)]
    assert days == [f"{late:%Y-%m-%d}", f"{late + timedelta(days=1):%Y-%m-%d}"]
    pytest.importorskip("duckdb")
    sql = "SELECT strftime(occurred_at, '%Y-%m-%d') AS day FROM traffic ORDER BY 1"
    for zone in ("Asia/Tokyo", "America/Los_Angeles"):
        done = subprocess.run(
            [sys.executable, "-m", "flywheel", "-w", workspace.workspace, *QUERY, sql, "--json"],
            env={**os.environ, "TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        )
        assert [row["day"] for row in json.loads(done.stdout)] == days
