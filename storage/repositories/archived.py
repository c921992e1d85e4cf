"""Which files the archive has: begun before they are written, so that none is left unknown."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import msgspec
from sqlalchemy import delete, select, update

from storage.tables.columns import table_of
from storage.tables.retention import ArchiveFileRow
from storage.work import Work

_files = table_of(ArchiveFileRow)


class ArchiveFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the archive: so many rows of a table (``source``), of one task and day.

    One that is not ``written`` is in the making, or is to go."""

    key: str
    task: str
    source: str
    day: str
    rows: int
    bytes: int = 0
    begun_at: datetime
    written: bool = False


class SqlArchiveFiles:
    """The list of the archive's files."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def begin(self, file: ArchiveFile) -> None:
        """A file is about to be written."""
        self._work.add(_files, [msgspec.structs.asdict(file)], ["key"])

    def written(self, key: str, size: int) -> None:
        """All of a file is there."""
        self._work.run(update(_files).where(_files.c.key == key).values(written=True, bytes=size))

    def going(self, key: str) -> None:
        """A file is about to be taken away."""
        self._work.run(update(_files).where(_files.c.key == key).values(written=False))

    def gone(self, key: str) -> None:
        """A file is not there any more."""
        self._work.run(delete(_files).where(_files.c.key == key))

    def unfinished(self, before: datetime) -> list[ArchiveFile]:
        """Files that a process which ended left, begun before this moment."""
        return self._read(_files.c.written.is_(False), _files.c.begun_at < before)

    def all(self, tasks: Collection[str] | None = None) -> list[ArchiveFile]:
        """Every file that is there, of these tasks or of all, by table, task and day."""
        of_tasks = () if tasks is None else (_files.c.task.in_(sorted(tasks)),)
        return self._read(_files.c.written.is_(True), *of_tasks)

    def _read(self, *where: object) -> list[ArchiveFile]:
        order = (_files.c.source, _files.c.task, _files.c.day, _files.c.key)
        rows = self._work.rows(select(_files).where(*where).order_by(*order))  # type: ignore[arg-type]
        return [ArchiveFile(**row._mapping) for row in rows]
