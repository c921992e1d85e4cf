"""Whether a database may have changed: a question so cheap that whoever waits can ask it often."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from storage.engine import RECYCLE_SECONDS

# SQLite counts what other connections commit; two equal snapshots of PostgreSQL show the same rows.
_QUESTIONS = {
    "sqlite": "PRAGMA data_version",
    "postgresql": "SELECT pg_current_snapshot()::text",
}

Version = tuple[int, object]


class Changes:
    """Thread-safe. One connection that is used for nothing else, opened anew now and then."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._question = _QUESTIONS[engine.dialect.name]
        self._lock = threading.Lock()
        self._connection: Any = None
        self._opened_at = 0.0
        self._opened = 0

    def now(self) -> Version | None:
        """What differs after every commit, whoever's it is: to be asked before what it stands for
        is read. It may differ without one. None where the database does not answer."""
        with self._lock:
            try:
                if time.monotonic() - self._opened_at > RECYCLE_SECONDS:
                    self._close()
                if self._connection is None:
                    self._open()
                answer = self._connection.cursor().execute(self._question).fetchone()
            except (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error):
                self._close()
                return None
            return self._opened, answer[0]

    def close(self) -> None:
        """Let go of the connection; the next question opens another."""
        with self._lock:
            self._close()

    def _open(self) -> None:
        connection = self._connection = self._engine.raw_connection()
        driver: Any = connection.driver_connection
        connection.detach()
        if self._engine.dialect.name == "postgresql":
            driver.autocommit = True
        self._opened_at = time.monotonic()
        # What one connection counts says nothing of what another does.
        self._opened += 1

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error):
                connection.close()
