"""SQLite databases at the newest schema: migrated once a process, then copied.

A database that is migrated step by step each time costs more than most tests that ask for one; that
migrating itself goes well is proven in tests/contract/test_storage_migrations.py.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.database import Database


@cache
def _newest() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "flywheel.db"
        database = Database(f"sqlite:///{file}")
        database.migrate()
        database.dispose()
        assert not file.with_name("flywheel.db-wal").exists(), "the copies would miss what is in it"
        return file.read_bytes()


def new_database(url: str) -> Database:
    """A migrated database: of SQLite's, a file that is not there yet is copied."""
    scheme, _, file = url.partition(":///")
    if scheme == "sqlite" and not Path(file).exists():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(_newest())
    database = Database(url)
    database.migrate()
    return database
