"""Work that only one process at a time may do, on every host that shares the database."""

from __future__ import annotations

import fcntl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

from flywheel.contracts.private_files import private_file
from storage.engine import sqlite_file

_OURS = 7_012_406  # the first of the two numbers of our own advisory locks


@contextmanager
def held_alone(engine: Engine, name: str, *, wait: bool) -> Iterator[bool]:
    """Whether this process alone does what ``name`` says, until the end of the block: False where
    another does, or wait for it. A process that dies gives it up."""
    file = sqlite_file(engine)
    if file is not None:
        held = file.with_name(f"{file.name}.{name}")
        private_file(held)
        with held.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        return
    key = {"ours": _OURS, "name": zlib.crc32(name.encode()) & 0x7FFFFFFF}
    with engine.connect() as connection:
        if wait:
            connection.execute(text("SELECT pg_advisory_lock(:ours, :name)"), key)
            mine = True
        else:
            asked = connection.execute(text("SELECT pg_try_advisory_lock(:ours, :name)"), key)
            mine = bool(asked.scalar())
        connection.commit()
        try:
            yield mine
        finally:
            if mine:
                connection.execute(text("SELECT pg_advisory_unlock(:ours, :name)"), key)
                connection.commit()
