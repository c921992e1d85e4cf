"""What removed rows came to: kept in their place, so that totals go on counting them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, select

from storage.repositories import review_states, rollout_totals, settled_totals, traffic_totals
from storage.tables.columns import UtcDateTime, table_of
from storage.tables.retention import GoneTotalRow
from storage.work import Values, Work

_gone = table_of(GoneTotalRow)


@dataclass(frozen=True, slots=True)
class Summed:
    """A table of totals, and how two of its rows with one key add up."""

    table: Table
    part: str
    key: tuple[str, ...]
    least: tuple[str, ...] = ()
    most: tuple[str, ...] = ()


# Kind of total (``storage.totals``) → its tables that count rows which may go.
OF_KIND: Mapping[str, tuple[Summed, ...]] = {
    "traffic": (
        Summed(traffic_totals.totals, "task", ("task", "release"), ("first",), ("last",)),
        Summed(traffic_totals.buckets, "task", ("task", "size", "start")),
        Summed(traffic_totals.samples, "task", ("task",)),
    ),
    "labels": (Summed(settled_totals.sources, "task", ("task", "source"), most=("latest",)),),
    "rollouts": (
        Summed(rollout_totals.totals, "rollout_id", ("rollout_id", "share", "arm", "live")),
        Summed(rollout_totals.latencies, "rollout_id", ("rollout_id", "share", "arm", "bucket")),
    ),
    "reviews": (Summed(review_states.totals, "task", ("task", "state")),),
}
# Labels that are settled are counted as long as they are there; that these were is kept beside.
_COVERED = Summed(settled_totals.totals, "task", ("task", "source", "split", "through_gateway"))
_SUMMED = {one.table.name: one for kinds in OF_KIND.values() for one in kinds} | {
    _COVERED.table.name: _COVERED
}


def keep(work: Work, table: Table, rows: Sequence[Values]) -> None:
    """Count rows of a total that the removal of what they count would take away."""
    if not rows:
        return
    summed = _SUMMED[table.name]
    # One at a time: two that add to the same row would lose what one of them adds.
    work.hold([_gone.name])
    added: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        where = str(row[summed.part]), json.dumps([row[name] for name in summed.key])
        numbers = {name: row[name] for name in row if name not in summed.key}
        added[where] = _added(summed, added.get(where), numbers)
    parts = {part for part, _ in added}
    for part in sorted(parts):
        for known in _stored(work, summed, part, [place for of, place in added if of == part]):
            where = (part, known.place)
            added[where] = _added(summed, _typed(summed, known.numbers), added[where])
    values = [
        {"total": table.name, "part": part, "place": place, "numbers": _plain(numbers)}
        for (part, place), numbers in sorted(added.items())
    ]
    work.put(_gone, values, ["total", "part", "place"])


def restore(work: Work, kind: str, part: str) -> None:
    """Add what is kept to totals of a kind that were made anew from rows."""
    for summed in OF_KIND.get(kind, ()):
        rows = kept(work, summed.table, part)
        work.increment(summed.table, rows, summed.key, least=summed.least, most=summed.most)
    if kind == "traffic":
        traffic_totals.forget_old(work, part)


def kept(work: Work, table: Table, part: str) -> list[dict[str, Any]]:
    """What is kept of a table of totals, as rows of it."""
    summed = _SUMMED[table.name]
    stored = work.rows(select(_gone).where(_gone.c.total == table.name, _gone.c.part == part))
    return [
        dict(zip(summed.key, json.loads(row.place), strict=True)) | _typed(summed, row.numbers)
        for row in stored
    ]


def parts(work: Work, kind: str) -> set[str]:
    """The tasks or rollouts of which something is kept in totals of a kind."""
    names = [summed.table.name for summed in OF_KIND.get(kind, ())]
    found = select(_gone.c.part).where(_gone.c.total.in_(names)).distinct()
    return {row.part for row in work.rows(found)}


def _stored(work: Work, summed: Summed, part: str, places: Iterable[str]) -> list[Any]:
    found: list[Any] = []
    for some in work.chunks(places):
        found += work.rows(
            select(_gone).where(
                _gone.c.total == summed.table.name,
                _gone.c.part == part,
                _gone.c.place.in_(some),
            )
        )
    return found


def _added(
    summed: Summed, one: Mapping[str, Any] | None, other: Mapping[str, Any]
) -> dict[str, Any]:
    known = one or {}
    return dict(known) | {
        name: _sum(summed, name, known.get(name), value) for name, value in other.items()
    }


def _sum(summed: Summed, name: str, one: Any, other: Any) -> Any:
    if one is None:
        return other
    if name in summed.least:
        return min(one, other)
    return max(one, other) if name in summed.most else one + other


def _plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in numbers.items()
    }


def _typed(summed: Summed, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value)
        if isinstance(summed.table.c[name].type, UtcDateTime)
        else value
        for name, value in numbers.items()
    }
