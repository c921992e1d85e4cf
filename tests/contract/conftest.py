"""Databases for contract tests: each test gets an empty one, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres_server import PostgresServer

from storage.database import Database
from storage.tables import metadata


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server that lives as long as the test session."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at the newest schema, to be copied."""
    file = tmp_path_factory.mktemp("sqlite") / "empty.db"
    database = Database(f"sqlite:///{file}")
    database.migrate()
    database.dispose()
    return file


@pytest.fixture(scope="session")
def postgres_database(postgres: PostgresServer) -> Iterator[Database]:
    database = Database(postgres.url)
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database at the newest schema."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("empty_sqlite"), tmp_path / "flywheel.db")
        made = Database(f"sqlite:///{tmp_path / 'flywheel.db'}")
        yield made
        made.dispose()
        return
    made = request.getfixturevalue("postgres_database")
    empty(made)
    yield made


def empty(database: Database) -> None:
    """Delete every row of a database."""
    names = ", ".join(table.name for table in metadata().sorted_tables)
    with database.work() as work:
        work.connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")


@pytest.fixture
def fresh_postgres(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a PostgreSQL database without any table."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS fresh")
        connection.execute("CREATE DATABASE fresh")
    yield postgres.url.replace("/postgres?", "/fresh?")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE fresh WITH (FORCE)")
