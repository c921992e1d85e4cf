"""Rows that are kept no longer, as Parquet files in the store of artefacts."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Integer, Table

from flywheel.contracts.ids import new_id, utc_now
from flywheel.retention.ports import Row
from storage.database import Database
from storage.objects.blobs import Blobs
from storage.repositories.archived import ArchiveFile
from storage.tables import metadata
from storage.tables.columns import UtcDateTime

if TYPE_CHECKING:
    import pyarrow as pa

ROOT = "archive"
# Nobody is so long about one file: it is of a process that was killed.
_LEFT = timedelta(hours=6)
_UNIT = "unit"
# What says of which day a row is.
_MOMENTS = ("occurred_at", "requested_at", "answered_at", "settled_at")


class RowArchive:
    """``retention.sweep.Archive``. A file is listed in the database before it is written, and read
    only once it is whole."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def write(self, task: str, rows: Mapping[str, Sequence[Row]]) -> None:
        """A file for each table and day. Raises ArtefactStoreError when the store is away."""
        for source, of_table in rows.items():
            days: dict[str, list[Row]] = defaultdict(list)
            for row in of_table:
                days[_day(row)].append(row)
            for day, of_day in sorted(days.items()):
                self._write(task, source, day, _arrow(metadata().tables[source], of_day))

    def recover(self, now: datetime) -> int:
        """Take away what a process that was killed left half written; how many files."""
        with self._database.transaction(read_only=True) as tx:
            left = tx.archived.unfinished(now - _LEFT)
        for file in left:
            self._remove(file.key)
        return len(left)

    def samples_of(self, unit: str, tasks: Collection[str]) -> list[tuple[str, str]]:
        """(task, sample) of what a user sent to these tasks and that is only here."""
        found: set[tuple[str, str]] = set()
        with self._database.transaction(read_only=True) as tx:
            files = tx.archived.all(tasks)
        for file in files:
            known = metadata().tables.get(file.source)
            if known is not None and _UNIT not in known.c:
                continue
            table = self._read(file, ["sample_id", _UNIT])
            if _UNIT in table.column_names:  # it is of a version that kept it
                sent = zip(table["sample_id"].to_pylist(), table[_UNIT].to_pylist(), strict=True)
                found.update((file.task, sample_id) for sample_id, of in sent if of == unit)
        return sorted(found)

    def rewrite_without(
        self, tasks: Collection[str], erased: Callable[[set[tuple[str, str]]], set[tuple[str, str]]]
    ) -> int:
        """Write each file anew that holds a sample of which ``erased`` says so; how many rows went.

        May be ended at any moment and begun again: a file is taken away after the one in its place
        is there, and until it is, it is listed as one that is to go. What others left half written
        goes too, so nobody else may be writing.
        """
        went = 0
        with self._database.transaction(read_only=True) as tx:
            files = tx.archived.all(tasks)
        for file in files:
            table = self._read(file)
            samples = [(file.task, sample_id) for sample_id in table["sample_id"].to_pylist()]
            gone = erased(set(samples))
            if not gone:
                continue
            left = table.filter([sample not in gone for sample in samples])
            if len(left):
                self._write(file.task, file.source, file.day, left)
            with self._database.transaction() as tx:
                tx.archived.going(file.key)
            self._remove(file.key)
            went += len(table) - len(left)
        with self._database.transaction(read_only=True) as tx:
            going = [one for one in tx.archived.unfinished(utc_now()) if one.task in tasks]
        # Of an erasure that was ended before it was gone, or of retention that was killed: what
        # removes anything is this process alone.
        for file in going:
            self._remove(file.key)
        return went

    def _write(self, task: str, source: str, day: str, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        key = f"{ROOT}/{source}/task={task}/day={day}/{new_id()}.parquet"
        file = ArchiveFile(
            key=key, task=task, source=source, day=day, rows=len(table), begun_at=utc_now()
        )
        with self._database.transaction() as tx:
            tx.archived.begin(file)
        with tempfile.TemporaryDirectory(prefix="flywheel-archive-") as scratch:
            path = Path(scratch) / "rows.parquet"
            pq.write_table(table, path, compression="zstd")
            self._blobs.write_file(key, path)
            size = path.stat().st_size
        with self._database.transaction() as tx:
            tx.archived.written(key, size)

    def _read(self, file: ArchiveFile, columns: list[str] | None = None) -> pa.Table:
        import pyarrow.parquet as pq

        with tempfile.TemporaryDirectory(prefix="flywheel-archive-") as scratch:
            path = Path(scratch) / "rows.parquet"
            self._blobs.copy(file.key, path)
            return pq.ParquetFile(path).read(columns)

    def _remove(self, key: str) -> None:
        self._blobs.remove(key)
        with self._database.transaction() as tx:
            tx.archived.gone(key)


def _day(row: Row) -> str:
    moment = next(row[name] for name in _MOMENTS if name in row)
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


def _arrow(table: Table, rows: Sequence[Row]) -> pa.Table:
    import pyarrow as pa

    fields = [(column.name, _type(column)) for column in table.columns]
    columns = {
        column.name: [_plain(column, row[column.name]) for row in rows] for column in table.columns
    }
    return pa.table(columns, schema=pa.schema(fields))


def _type(column: Column[Any]) -> pa.DataType:
    import pyarrow as pa

    kind = column.type
    if isinstance(kind, UtcDateTime):
        return pa.timestamp("us", tz="UTC")
    if isinstance(kind, Boolean):
        return pa.bool_()
    if isinstance(kind, BigInteger | Integer):
        return pa.int64()
    return pa.float64() if isinstance(kind, Float) else pa.string()


def _plain(column: Column[Any], value: Any) -> Any:
    if value is not None and isinstance(column.type, JSON):
        return msgspec.json.encode(value).decode()
    return value
