"""Many rows in one statement, a column at a time: SQLAlchemy's way costs more than the insert.

SQLite is handed some rows at once, since Python's driver gives the interpreter away with each
statement and may wait long to have it back; PostgreSQL an array for each column, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import JSON, Column, Connection, Dialect, Table

from storage.tables.columns import UtcDateTime, in_utc

Values = Mapping[str, Any]
Convert = Callable[[Any], Any]
# In one statement; below the limit of bound parameters with up to 300 columns.
_SQLITE_ROWS = 100
# Characters of a moment as text, without its zone.
_MOMENT = len("2000-01-01 00:00:00.000000")
_BETWEEN, _NULL = "\x1f", "\x1e"


def write(
    connection: Connection,
    table: Table,
    rows: Sequence[Values],
    key: Sequence[str],
    change: Mapping[str, str],
) -> int:
    """Insert rows of the same columns. Of one whose key is there, columns are set as ``change``
    says in SQL (``excluded`` is the new row), or nothing without any. No two rows may share a key
    then. The number of rows written."""
    names = list(rows[0])
    dialect = connection.dialect
    columns = [_converted(table.c[name], [row[name] for row in rows], dialect) for name in names]
    quoted = dialect.identifier_preparer.quote
    into = f"INSERT INTO {quoted(table.name)} ({', '.join(map(quoted, names))})"
    conflict = f"ON CONFLICT ({', '.join(map(quoted, key))}) DO NOTHING"
    if change:
        changes = ", ".join(f"{quoted(name)} = {sql}" for name, sql in change.items())
        conflict = f"ON CONFLICT ({', '.join(map(quoted, key))}) DO UPDATE SET {changes}"
    if dialect.name == "sqlite":
        return _to_sqlite(connection, into, conflict, list(zip(*columns, strict=True)))
    arrays, given = [], []
    for name, values in zip(names, columns, strict=True):
        array, parameter = _array(values)
        arrays.append(f"{array}::{table.c[name].type.compile(dialect)}[]")
        given.append(parameter)
    rows_of = f"SELECT * FROM unnest({', '.join(arrays)})"  # noqa: S608 - names of ours
    return connection.exec_driver_sql(f"{into} {rows_of} {conflict}", tuple(given)).rowcount


def _to_sqlite(
    connection: Connection, into: str, conflict: str, rows: Sequence[tuple[Any, ...]]
) -> int:
    places = f"({', '.join('?' * len(rows[0]))})"
    written = 0
    for start in range(0, len(rows), _SQLITE_ROWS):
        some = rows[start : start + _SQLITE_ROWS]
        statement = f"{into} VALUES {', '.join([places] * len(some))} {conflict}"
        parameters = tuple(chain.from_iterable(some))
        written += connection.exec_driver_sql(statement, parameters).rowcount
    return written


def joined(values: Sequence[Any]) -> str | None:
    """Values in one text, for ``string_to_array(…, chr(31), chr(30))`` on PostgreSQL, where a value
    does not have the characters between them: the driver's arrays cost more than the rest."""
    text = _BETWEEN.join([_NULL if value is None else str(value) for value in values])
    if text.count(_BETWEEN) != len(values) - 1 or text.count(_NULL) != values.count(None):
        return None
    return text or None  # an empty text would be an array of none


def _array(values: Sequence[Any]) -> tuple[str, Any]:
    """An array in SQL, and its parameter."""
    text = joined(values)
    if text is None:
        return "%s", [None if value is None else str(value) for value in values]
    return "string_to_array(%s, chr(31), chr(30))", text


def _converted(column: Column[Any], values: list[Any], dialect: Dialect) -> list[Any]:
    """As the driver takes them; SQL's NULL stays None."""
    kind = column.type
    if isinstance(kind, JSON):
        return [msgspec.json.encode(value).decode() for value in values]
    convert: Convert | None
    if isinstance(kind, UtcDateTime) and dialect.name == "sqlite":
        convert = _text_of_moment
    else:
        convert = kind.dialect_impl(dialect).bind_processor(dialect)
    if convert is not None:
        values = [convert(value) for value in values]
    texts = [value for value in values if type(value) is str]
    if "\x00" in "".join(texts):
        # PostgreSQL stores no NUL in text; one in an event must not stop its whole batch.
        return [
            value.replace("\x00", "\ufffd") if type(value) is str else value for value in values
        ]
    return values


def _text_of_moment(value: datetime | None) -> str | None:
    """As SQLAlchemy stores moments in SQLite, which it writes field by field."""
    if value is None:
        return None
    return in_utc(value).isoformat(" ", "microseconds")[:_MOMENT]
