"""Databases for contract tests: each test gets an empty one, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from new_database import new_database
from postgres_server import PostgresServer, database_of, empty

from storage.database import Database


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server that lives as long as the test session."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at the newest schema, to be copied."""
    file = tmp_path_factory.mktemp("sqlite") / "empty.db"
    new_database(f"sqlite:///{file}").dispose()
    return file


@pytest.fixture(scope="session")
def postgres_database(postgres: PostgresServer) -> Iterator[Database]:
    database = Database(postgres.url)
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def sqlite_database(empty_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    shutil.copy(empty_sqlite, tmp_path / "flywheel.db")
    made = Database(f"sqlite:///{tmp_path / 'flywheel.db'}")
    yield made
    made.dispose()


@pytest.fixture
def postgresql_database(postgres_database: Database) -> Database:
    empty(postgres_database)
    return postgres_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database at the newest schema."""
    made: Database = request.getfixturevalue(f"{request.param}_database")
    return made


@pytest.fixture
def fresh_postgres(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a PostgreSQL database without any table."""
    with database_of(postgres, "fresh") as url:
        yield url
