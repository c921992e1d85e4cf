"""kill -9 of retention and of an erasure, anywhere: who goes on loses nothing, counts nothing
twice, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from new_database import new_database
from retention_process import ERASING, POINTS
from settings_file import TASK, load

from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.settings import FlywheelSettings
from flywheel.upkeep.erasure import erase
from flywheel.upkeep.retention import remove_rows
from storage.archive import RowArchive
from storage.database import Database
from storage.objects import open_blobs

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
OLD = utc_now() - timedelta(days=60)


@pytest.fixture
def settings(tmp_path: Path) -> FlywheelSettings:
    return load(tmp_path, f"[retention]\ntraffic = 30\narchive = true\n{TASK}")


@pytest.fixture
def database(settings: FlywheelSettings) -> Iterator[Database]:
    made = new_database(settings.database)
    with made.transaction() as tx:
        tx.label_intake.record_samples([sent(f"s{n}") for n in range(450)])
    yield made
    made.dispose()


def sent(sample: str, **other: Any) -> TrafficRecorded:
    return TrafficRecorded(
        **{
            "event_id": new_id(),
            "occurred_at": OLD,
            "task": "species",
            "sample_id": sample,
            "content": f"text of {sample}",
            "unit": "kim",
            "release": "r1",
        }
        | other
    )


def killed(settings: FlywheelSettings, point: str) -> None:
    done = subprocess.run(
        [sys.executable, TESTS / "faults/retention_process.py", settings.workspace, point],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -9, done.stderr


def counted(database: Database) -> Any:
    with database.transaction(read_only=True) as tx:
        return tx.overview.traffic_counts("species"), tx.overview.coverage("species")


def archived(settings: FlywheelSettings, database: Database) -> list[str]:
    with database.transaction(read_only=True) as tx:
        files = tx.archived.all()
    read = [
        pyarrow.parquet.ParquetFile(settings.layout.artefacts / file.key).read() for file in files
    ]
    return [sample for table in read for sample in table["sample_id"].to_pylist()]


def stored(settings: FlywheelSettings) -> int:
    return sum(1 for _ in (settings.layout.artefacts / "archive").rglob("*.parquet"))


@pytest.mark.parametrize("point", POINTS)
def test_retention_goes_on_where_it_was_killed(
    settings: FlywheelSettings, database: Database, point: str
) -> None:
    before = counted(database)
    killed(settings, point)
    went = remove_rows(settings, database, utc_now())
    assert went is not None
    with database.transaction(read_only=True) as tx:
        assert tx.overview.texts("species", [f"s{n}" for n in range(450)]) == {}
    assert counted(database) == before
    database.recount()
    assert counted(database) == before
    assert set(archived(settings, database)) == {f"s{n}" for n in range(450)}
    # What was left half written goes once nobody can be at it.
    RowArchive(database, open_blobs(settings)).recover(utc_now() + timedelta(days=1))
    with database.transaction(read_only=True) as tx:
        assert len(tx.archived.all()) == stored(settings)


@pytest.mark.parametrize("point", ERASING)
def test_an_erasure_goes_on_when_it_is_asked_for_again(
    settings: FlywheelSettings, database: Database, point: str
) -> None:
    remove_rows(settings, database, utc_now())
    with database.transaction() as tx:
        tx.label_intake.record_samples(
            [sent(f"new {n}", occurred_at=utc_now()) for n in range(120)]
        )
        tx.label_intake.record_samples([sent("another", occurred_at=utc_now(), unit="bo")])
    before = counted(database)
    killed(settings, point)
    erase(settings, database, ["species"], user="kim", sample=None, by="ada", why="asked")
    names = ["another", *(f"new {n}" for n in range(120))]
    with database.transaction(read_only=True) as tx:
        assert list(tx.overview.texts("species", names)) == ["another"]
        assert [one.finished_at is not None for one in tx.erasures.history()] == [False, True]
    assert archived(settings, database) == []
    assert stored(settings) == 0
    assert counted(database) == before
    database.recount()
    assert counted(database) == before
