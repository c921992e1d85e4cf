"""What a database in trouble looks like from outside."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from storage_events import TASK, traffic

from flywheel.contracts.positions import Handled
from flywheel.errors import ConfigurationError, StorageError
from storage import engine
from storage.database import Database


def sqlite_at(folder: Path) -> Database:
    database = Database(f"sqlite:///{folder / 'flywheel.db'}")
    database.migrate()
    return database


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://host/name", "sqlite://", "sqlite:///:memory:", ""]
)
def test_a_url_that_cannot_be_used_names_its_key(url: str) -> None:
    with pytest.raises(ConfigurationError, match="database_url"):
        Database(url)


def fill(database: Database) -> None:
    with database.transaction() as tx:
        # SQLite reports a full disk and a reached limit of pages alike.
        tx.positions._work.connection.exec_driver_sql("PRAGMA max_page_count = 1")
        tx.label_intake.record_samples([traffic(f"s{i}", content="x" * 2000) for i in range(500)])


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    database = sqlite_at(tmp_path)
    with pytest.raises(StorageError, match="disk of the database is full") as caught:
        fill(database)
    assert caught.value.retryable
    database.dispose()


def test_a_locked_database_is_retryable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_BUSY_SECONDS", 0.05)
    database = sqlite_at(tmp_path)
    other = sqlite3.connect(tmp_path / "flywheel.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="another process held"), database.transaction():
        pass
    with database.transaction(read_only=True) as tx:
        assert tx.positions.of("labels") == {}
    other.execute("COMMIT")
    other.close()
    with database.transaction() as tx:
        tx.positions.note("labels", [Handled("topic", 0, "log", [0], 1)])
    database.dispose()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "flywheel.db").write_bytes(b"this is no database, but long enough" * 200)
    database = Database(f"sqlite:///{tmp_path / 'flywheel.db'}")
    with pytest.raises(StorageError, match="damaged"):
        database.migrate()
    database.dispose()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    database = Database(f"sqlite:///{tmp_path / 'file' / 'flywheel.db'}")
    with pytest.raises(StorageError, match="file"):
        database.migrate()
    database.dispose()


def lose_server(server: PostgresServer, database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1")])
        server.stop()


def test_a_server_that_goes_away_and_comes_back() -> None:
    with PostgresServer() as server:
        database = Database(server.url)
        database.migrate()
        with pytest.raises(StorageError):
            lose_server(server, database)
        with pytest.raises(StorageError), database.transaction():
            pass
        server.start()
        with database.transaction() as tx:
            assert tx.overview.traffic_counts(TASK)["requests"] == 0
            tx.label_intake.record_samples([traffic("s1")])
        with database.transaction(read_only=True) as tx:
            assert tx.overview.traffic_counts(TASK)["requests"] == 1
        database.dispose()
