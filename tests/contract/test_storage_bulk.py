"""Rows that are written many at once read as those that are written one by one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from storage.database import Database
from storage.tables.columns import table_of
from storage.tables.evidence import ScoreRow
from storage.tables.labels import SourceTotalRow, TrafficRow
from storage.work import Work

SCORES, SOURCES, TRAFFIC = map(table_of, (ScoreRow, SourceTotalRow, TrafficRow))
KEY = ["task", "sample_id", "release", "live"]
AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
ODD = [
    *("plain", "", " ", "NULL", "null", "{}", "a,b", 'quo"ted', "it's", "back\\slash", "new\nline"),
    *("é漢😀", "\x1f", "\x1e", "a\x1fb\x1ec", "%s", "%(x)s", ":x", "?", "$1", "t", "1e5"),
]


def row(number: int, **other: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "task": "t",
        "sample_id": f"s{number}",
        "release": "r",
        "live": True,
        "event_id": f"e{number}",
        "arm": None,
        "rollout_id": None,
        "challenger_share": None,
        "output": "a",
        "confidence": 0.1 + 0.2,
        "scores": {"a": 1e-17, "b": 0.75},
        "unit": "u",
        "latency_ms": 1.5,
        "latency_bucket": 3,
        "failed": False,
        "cached": True,
        "occurred_at": AT,
    }
    return values | other


def read(work: Work) -> list[dict[str, Any]]:
    found = work.rows(select(SCORES).order_by(SCORES.c.sample_id))
    return [{name: getattr(one, name) for name in row(0)} for one in found]


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
def test_odd_values_come_back_as_they_were(database: Database, *, together: bool) -> None:
    rows = [row(n, output=text, unit=text) for n, text in enumerate(ODD)]
    rows += [row(100, output=None, confidence=None, scores={}, latency_ms=2)]
    rows += [row(101, scores=dict.fromkeys(ODD, 0.5), latency_ms=1e9, failed=True)]
    rows += [row(102, challenger_share=0, confidence=1)]
    with database.work() as work:
        for part in [rows] if together else [[one] for one in rows]:
            assert work.add(SCORES, part, KEY) == len(part)
    with database.work(read_only=True) as work:
        assert read(work) == sorted(rows, key=lambda one: one["sample_id"])
        for text in ODD:
            there = work.rows(select(SCORES.c.unit).where(work.among(SCORES.c.unit, [text, "no"])))
            assert [one.unit for one in there] == [text]
        assert len(work.rows(select(SCORES.c.unit).where(work.among(SCORES.c.unit, ODD)))) == len(
            ODD
        )
        assert not work.rows(select(SCORES.c.unit).where(work.among(SCORES.c.unit, [])))


def test_a_nul_is_kept_as_what_stands_for_it(database: Database) -> None:
    with database.work() as work:
        work.add(SCORES, [row(1, output="a\0b"), row(2)], KEY)
        assert [one["output"] for one in read(work)] == ["a\ufffdb", "a"]


def test_rows_that_are_there_stay_or_are_replaced(database: Database) -> None:
    with database.work() as work:
        assert work.add(SCORES, [row(1), row(2)], KEY) == 2
        assert work.add(SCORES, [row(2, output="b"), row(3)], KEY) == 1
        assert work.put(SCORES, [row(1, output="c"), row(4)], KEY) == 2
        # Of two of one key the later stays.
        assert work.put(SCORES, [row(5, output="d"), row(5, output="e")], KEY)
        assert [one["output"] for one in read(work)] == ["c", "a", "a", "a", "e"]
        assert work.add(SCORES, [], KEY) == work.put(SCORES, [], KEY) == 0


def test_numbers_add_up_and_edges_move(database: Database) -> None:
    blank = {"task": "t", "samples": 1, "confidences": 0, "confidence": 0}
    blank |= {"experts": 0, "corrections": 0}
    later, earlier = AT.replace(hour=13), AT.replace(hour=11)
    with database.work() as work:
        for latest in (AT, later, earlier):
            rows = [blank | {"source": name, "latest": latest} for name in ("a", "b")]
            work.increment(SOURCES, rows, ["task", "source"], most=("latest",))
        found = work.rows(select(SOURCES).order_by(SOURCES.c.source))
        assert [(one.source, one.samples, one.latest) for one in found] == [
            ("a", 3, later),
            ("b", 3, later),
        ]


def test_what_a_sample_is_looked_up_by_is_an_index(database: Database) -> None:
    with database.work(read_only=True) as work:
        wanted = select(TRAFFIC.c.event_id).where(work.among(TRAFFIC.c.sample_id, ["a", "b"]))
        dialect = work.connection.dialect
        if dialect.name != "sqlite":
            return  # PostgreSQL decides by how much there is
        sql = wanted.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        plan = work.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all()
        assert "USING INDEX" in str(plan) or "USING COVERING INDEX" in str(plan)
