"""Engines: what SQLite and PostgreSQL need to behave alike, and their errors in our words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import (
    TimeoutError as PoolTimeout,
)

from flywheel.errors import ConfigurationError, Conflict, StorageError

_READ_ONLY = "flywheel_read_only"
_BUSY_SECONDS = 30
# How often who waits for SQLite's write lock asks for it again. SQLite itself asks ever more
# seldom, at last ten times a second: under several writers the lock then often lies free.
_ASK_AGAIN_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 300
RECYCLE_SECONDS = 600.0
# Rows of an index that are looked at: with fewer, SQLite takes a large rollout for many small ones.
_ANALYSED_ROWS = 100_000
_KEY = "database_url"


def make_engine(url: str) -> Engine:
    """An engine for ``sqlite:///…`` or ``postgresql://…``. Connects to nothing yet.

    Raises ConfigurationError for any other URL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(_KEY, "not a database URL") from None
    family = parsed.drivername.partition("+")[0]
    options: dict[str, Any] = {
        "json_serializer": lambda value: msgspec.json.encode(value).decode(),
        "json_deserializer": msgspec.json.decode,
    }
    if family == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigurationError(_KEY, "SQLite needs a file: other processes use it too")
        engine = create_engine(
            parsed,
            connect_args={"timeout": _BUSY_SECONDS},
            pool_size=20,
            pool_recycle=int(RECYCLE_SECONDS),
            **options,
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if family in {"postgresql", "postgres"}:
        try:
            engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                pool_size=10,
                max_overflow=20,
                connect_args={"connect_timeout": 10, "application_name": "flywheel"},
                **options,
            )
        except (NoSuchModuleError, ImportError) as error:
            raise ConfigurationError(
                _KEY, f"PostgreSQL's driver is not installed ({error})", "install psycopg"
            ) from error
        event.listen(engine, "connect", _prepare_postgresql)
        return engine
    raise ConfigurationError(_KEY, f"{family!r} is not supported", "use sqlite or postgresql")


def read_only_engine(engine: Engine) -> Engine:
    """The same connections for transactions that see one moment of the database."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine.execution_options(**{_READ_ONLY: True})


def analyse(engine: Engine) -> None:
    """Count what the tables of a database hold, each in a transaction of its own."""
    for table in inspect(engine).get_table_names():
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql(f"PRAGMA analysis_limit={_ANALYSED_ROWS}")
            connection.exec_driver_sql(f'ANALYZE "{table}"')


def settle(engine: Engine) -> None:
    """Have a SQLite database's log of changes written to its file, and emptied."""
    if engine.dialect.name != "sqlite":
        return
    connection = engine.raw_connection()
    try:
        busy, *_ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.close()
    if busy:
        raise StorageError(
            "what was removed still lies in the log of the database, which others read all the "
            "time: give the command again"
        )


def sqlite_file(engine: Engine) -> Path | None:
    """The file of a SQLite database, or None."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    return Path(engine.url.database)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Our own BEGIN, below; the driver's would start too late and only for changes.
    connection.isolation_level = None
    # FULL: what was committed, and therefore acknowledged to Kafka, survives a power cut.
    # What is removed is overwritten, as not every build of SQLite does by itself.
    for pragma in (
        "synchronous=FULL",
        "cache_size=-16384",
        "temp_store=MEMORY",
        "secure_delete=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_postgresql(connection: Any, _record: object) -> None:
    # A process that is stopped in the middle of a transaction must not hold its locks for ever.
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_LONGEST_PAUSE_SECONDS}s'")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that may write takes the write lock at once: one that begins by reading could
    # not get it later if someone else wrote in between.
    driver: Any = connection.connection.dbapi_connection
    if connection.get_execution_options().get(_READ_ONLY, False):
        driver.execute("BEGIN")
        return
    driver.execute("PRAGMA busy_timeout=0")
    try:
        _take_write_lock(driver)
    finally:
        driver.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000}")


def _take_write_lock(driver: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            # Its further kinds, such as a log that is being recovered, pass as well.
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(_ASK_AGAIN_SECONDS)


@contextmanager
def errors_translated() -> Iterator[None]:
    """Database errors as the error tree's: what may pass by itself becomes a StorageError."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"the database refused the change: {error.orig}") from error
    except (OperationalError, InterfaceError) as error:
        raise StorageError(_words(error)) from error
    except PoolTimeout as error:
        raise StorageError(f"all database connections are busy: {error}") from error
    except DBAPIError as error:
        known = ("malformed", "not a database", "does not exist")
        if error.connection_invalidated or any(words in str(error.orig) for words in known):
            raise StorageError(_words(error)) from error
        raise
    except sqlite3.Error as error:
        raise StorageError(_words(error)) from error


def _words(error: Exception) -> str:
    """What went wrong, and what to do about it."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    problem = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    lowered = problem.lower()
    if "is full" in lowered or "no space left" in lowered:
        return f"the disk of the database is full: free some space ({problem})"
    if "locked" in lowered or "lock timeout" in lowered:
        return f"another process held the database for over {_BUSY_SECONDS} s ({problem})"
    if "malformed" in lowered or "not a database" in lowered:
        return f"the database file is damaged: restore it from a backup ({problem})"
    if "no such table" in lowered or ("relation" in lowered and "not exist" in lowered):
        return f"the database has no tables yet: start `flywheel up` once ({problem})"
    if "unable to open" in lowered or "readonly" in lowered:
        return f"the database file cannot be written: check its folder's rights ({problem})"
    return f"the database did not answer: {problem}"
