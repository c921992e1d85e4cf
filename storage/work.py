"""One open database transaction: the few statements that every repository is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Executable,
    Integer,
    Row,
    Table,
    and_,
    any_,
    case,
    cast,
    extract,
    func,
    or_,
    select,
)
from sqlalchemy import (
    Sequence as DatabaseSequence,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from flywheel.contracts.ids import utc_now
from storage.bulk import Values, joined, write

__all__ = ["Values", "Work", "arrived", "later"]

_Columns = ReadOnlyColumnCollection[str, Column[Any]]
# Below the limit of bound parameters of either database, and few enough shapes to be cached.
_CHUNK = 1000
_JULIAN_1970 = 2_440_587.5
# PostgreSQL's, of all tasks together: what a transaction reserved is nobody else's.
TICKS = DatabaseSequence("label_ticks")


class Work:
    """What repositories share: the connection, whose outbox it is, and whether it may write."""

    def __init__(self, connection: Connection, owner: str, read_only: bool) -> None:
        self.connection = connection
        self.owner = owner
        self.read_only = read_only
        self.sqlite = connection.dialect.name == "sqlite"

    def rows(self, statement: Executable) -> Sequence[Row[Any]]:
        """Run a query."""
        return self.connection.execute(statement).all()

    def row(self, statement: Executable) -> Row[Any] | None:
        """Run a query for at most one row."""
        return self.connection.execute(statement).first()

    def run(self, statement: Executable) -> int:
        """Run a change; the number of rows it touched."""
        return self.connection.execute(statement).rowcount

    def add(self, table: Table, values: Sequence[Values], key: Sequence[str]) -> int:
        """Insert rows whose key is not there yet; the number of new ones."""
        return write(self.connection, table, values, key, {}) if values else 0

    def put(
        self,
        table: Table,
        values: Sequence[Values],
        key: Sequence[str],
        where: Callable[[Any], ColumnElement[bool]] | None = None,
    ) -> int:
        """Insert rows, or replace those of the same key (only where ``where`` of the new row
        holds); the number of rows written."""
        if not values:
            return 0
        names = [name for name in values[0] if name not in key]
        if where is None and self._differ(values, key):
            change = {name: f"excluded.{self._quoted(name)}" for name in names}
            return write(self.connection, table, values, key, change)
        statement = self._insert(table)
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=list(key),
            set_={name: new[name] for name in names},
            where=None if where is None else where(new),
        )
        return self._write(statement, values)

    def increment(
        self,
        table: Table,
        values: Sequence[Values],
        key: Sequence[str],
        least: Sequence[str] = (),
        most: Sequence[str] = (),
    ) -> int:
        """Add to the numbers of the rows with these keys, each once; a row that is not there begins
        at 0.

        Of the columns ``least`` and ``most`` the smaller and the larger value stays.
        """
        if not values:
            return 0
        smaller, larger = ("min", "max") if self.sqlite else ("least", "greatest")
        change = {}
        for name in (one for one in values[0] if one not in key):
            old, new = (
                f"{self._quoted(of)}.{self._quoted(name)}" for of in (table.name, "excluded")
            )
            change[name] = f"{old} + {new}"
            if name in least or name in most:
                change[name] = f"{smaller if name in least else larger}({old}, {new})"
        return write(self.connection, table, values, key, change)

    def among(self, column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
        """Whether a text is one of ``values``, which are one parameter however many they are."""
        wanted = list(dict.fromkeys(values))
        if self.sqlite:
            each = func.json_each(msgspec.json.encode(wanted).decode()).table_valued("value")
            return column.in_(select(each.c.value))
        text = joined(wanted)
        if text is None:  # none at all, or an odd one among them
            return column.in_(wanted)
        return column == any_(func.string_to_array(text, func.chr(31), func.chr(30)))

    def chunks(self, ids: Iterable[str]) -> Iterator[list[str]]:
        """``ids`` without repeats, in parts that fit one statement."""
        unique = list(dict.fromkeys(ids))
        for start in range(0, len(unique), _CHUNK):
            yield unique[start : start + _CHUNK]

    def hold(self, tables: Sequence[str]) -> None:
        """Let nobody else write to these tables until the transaction ends. On SQLite nobody
        does anyway."""
        if not self.sqlite:
            self.connection.exec_driver_sql(
                f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE"
            )

    def share(self, tables: Sequence[str]) -> None:
        """Wait until nobody holds these tables (``hold``), and let nobody do so until the
        transaction ends; others may write to them."""
        if not self.sqlite:
            self.connection.exec_driver_sql(f"LOCK TABLE {', '.join(tables)} IN ROW EXCLUSIVE MODE")

    def reserve(self, clocks: Table, task: str) -> int:
        """A tick for what is about to be written, without a lock: given to nobody else, and kept
        unless another one overtakes it (``tick``)."""
        if self.sqlite:  # its transactions come one by one
            known = select(func.max(clocks.c.ticks)).where(clocks.c.task == task)
            return int(self.connection.execute(known).scalar_one() or 0) + 1
        return int(self.connection.execute(select(TICKS.next_value())).scalar_one())

    def tick(self, clocks: Table, task: str, reserved: int | None = None) -> int:
        """Move a task's clock on and keep it locked until the transaction ends.

        The lock makes ticks commit in their order: whoever reads a tick can be sure that no
        smaller one will appear later. A plain sequence would not give that. Returns what was
        ``reserved``, unless another transaction has got past it meanwhile.
        """
        statement = self._insert(clocks).values(task=task, ticks=reserved or 1)
        after: Any = clocks.c.ticks + 1
        if reserved is not None:
            later = after if self.sqlite else TICKS.next_value()
            given = statement.excluded.ticks
            after = case((clocks.c.ticks < given, given), else_=later)
        statement = statement.on_conflict_do_update(index_elements=["task"], set_={"ticks": after})
        self.connection.execute(statement)
        ticks = self.connection.execute(select(clocks.c.ticks).where(clocks.c.task == task))
        return int(ticks.scalar_one())

    def whole(self, number: ColumnElement[Any]) -> ColumnElement[int]:
        """A number that is not negative without its fraction, as ``int`` has it."""
        return cast(number if self.sqlite else func.floor(number), BigInteger)

    def clock(self) -> ColumnElement[float]:
        """The moment by the database's own clock, in seconds since 1970."""
        if self.sqlite:
            return cast((func.julianday("now") - _JULIAN_1970) * 86_400.0, Double)
        return cast(extract("epoch", func.clock_timestamp()), Double)

    def epoch(self, moment: ColumnElement[Any]) -> ColumnElement[int]:
        """Whole seconds since 1970 of a stored moment."""
        if self.sqlite:
            return cast(func.strftime("%s", moment), Integer)
        return cast(func.floor(extract("epoch", moment)), Integer)

    def _differ(self, values: Sequence[Values], key: Sequence[str]) -> bool:
        return len({tuple(row[name] for name in key) for row in values}) == len(values)

    def _quoted(self, name: str) -> str:
        return str(self.connection.dialect.identifier_preparer.quote(name))

    def _write(self, statement: Executable, values: Sequence[Values]) -> int:
        counting = statement.execution_options(preserve_rowcount=True)
        return self.connection.execute(counting, [_clean(row) for row in values]).rowcount

    def _insert(self, table: Table) -> Any:
        return sqlite.insert(table) if self.sqlite else postgresql.insert(table)


def arrived(moment: datetime, now: datetime | None = None) -> datetime:
    """A writer's time, which is no later than its arrival here: at ``now``, or this moment.

    A clock that runs ahead would otherwise put what it wrote after all that comes later: times
    decide which of two words on a thing counts.
    """
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return min(aware, now or utc_now())


def later(table: Table) -> Callable[[Any], ColumnElement[bool]]:
    """Whether a new row's event came after the stored row's, by time, then by id."""
    return lambda new: _after(new, table.c)


def _after(one: _Columns, other: _Columns) -> ColumnElement[bool]:
    return or_(
        one["occurred_at"] > other["occurred_at"],
        and_(
            one["occurred_at"] == other["occurred_at"],
            one["event_id"] > other["event_id"],
        ),
    )


def _clean(row: Values) -> dict[str, Any]:
    """PostgreSQL stores no NUL in text; one in an event must not stop its whole batch."""
    return {
        name: value.replace("\x00", "\ufffd") if type(value) is str and "\x00" in value else value
        for name, value in row.items()
    }
