"""Bring a database to the newest schema, one process at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from flywheel.contracts.private_files import close_to_others, private_file
from flywheel.errors import StorageError
from storage.engine import read_only_engine, sqlite_file

if TYPE_CHECKING:
    from alembic.config import Config

# The newest revision, known without importing Alembic; a test compares it with the scripts.
HEAD = "0019"
_LOCK = 7_012_406_518_342_117_001  # a number of our own among PostgreSQL's advisory locks


def upgrade(engine: Engine) -> None:
    """Upgrade to ``HEAD``, unless it is there already."""
    file = sqlite_file(engine)
    if file is not None:
        _prepare_file(engine, file)
    if _revision(engine) == HEAD:
        return
    with engine.connect() as connection, connection.begin():
        # SQLite's BEGIN IMMEDIATE is its lock: others wait, then find nothing left to do.
        if file is None:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        _run(connection)


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, for code that drives it."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


def _run(connection: Connection) -> None:
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(config(connection), HEAD)
    except CommandError as error:
        raise StorageError(
            f"the database was written by another version of Flywheel: use that one ({error})"
        ) from error


def _revision(engine: Engine) -> str | None:
    try:
        # Whoever holds the database's write lock holds up nobody who only starts to read.
        with read_only_engine(engine).connect() as connection, connection.begin():
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except DBAPIError as error:
        words = str(error.orig).lower()
        if "no such table" in words or "does not exist" in words:
            return None
        raise


def _prepare_file(engine: Engine, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives the files beside it the rights of this one.
        private_file(file)
        for beside in ("-wal", "-shm"):
            close_to_others(file.with_name(file.name + beside))
    except OSError as error:
        raise StorageError(f"the file of the database cannot be made: {error}") from error
    # Readers and the writer don't wait for each other in WAL mode. The file remembers it.
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.close()
    finally:
        connection.close()
