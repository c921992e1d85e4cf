"""What the console shows of traffic and labels."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from storage_events import START, TASK, at, label, settled, traffic

from storage.database import Database
from storage.repositories.overview import Overview

T0 = int(START.timestamp())


def record(database: Database, *events: Any) -> None:
    with database.transaction() as tx:
        for event in events:
            kind = type(event).__name__
            if kind == "TrafficRecorded":
                tx.label_intake.record_samples([event])
            elif kind == "LabelRecorded":
                tx.label_intake.record_labels([event])
            else:
                tx.label_intake.record_settlements([event])


def test_an_empty_database_has_an_overview(database: Database) -> None:
    with database.transaction(read_only=True) as tx:
        assert tx.overview.traffic_counts(TASK) == {
            "requests": 0,
            "failed": 0,
            "releases": {},
            "first": None,
            "last": None,
        }
        assert tx.overview.traffic_series(TASK, 60, 10) == []
        assert tx.overview.coverage(TASK) == {"auto": 0, "expert": 0, "other": 0, "none": 0}
        assert tx.overview.source_history(TASK) == []


def test_counts_and_series_of_traffic_through_the_gateway(database: Database) -> None:
    record(
        database,
        traffic("s1", 0),
        traffic("s2", 9, arm="champion"),
        traffic("s3", 10, arm="challenger", release="r2"),
        traffic("s4", 25, release=None, status=503, error="no model server"),
        traffic("s5", 0, origin="ingest"),
        traffic("s6", 0, task="other"),
    )
    with database.transaction(read_only=True) as tx:
        assert tx.overview.traffic_counts(TASK) == {
            "requests": 4,
            "failed": 1,
            "releases": {"r1": 2, "r2": 1},
            "first": at(0),
            "last": at(25),
        }
        series = tx.overview.traffic_series(TASK, 10, 100)
        assert series == [(T0, 2, 2, 0, 0), (T0 + 10, 1, 0, 1, 0), (T0 + 20, 1, 1, 0, 1)]
        assert tx.overview.traffic_series(TASK, 10, 2) == series[1:]


def test_coverage(database: Database) -> None:
    record(
        database,
        *(traffic(f"s{i}") for i in range(5)),
        traffic("seeded", origin="ingest"),
        label("s0", "a", "auto", 1),
        label("s1", "a", "rule", 2),
        label("s2", "a", "auto", 3),
        settled("s2", "b", 12),
        label("s3", "a", "user", 13),
        label("seeded", "a", "seed", 14),
    )
    with database.transaction(read_only=True) as tx:
        assert tx.overview.coverage(TASK) == {"auto": 2, "expert": 1, "other": 1, "none": 1}


def test_the_history_of_sources(database: Database) -> None:
    record(
        database,
        traffic("s1", 1, source="app", confidence=0.5, output="a"),
        traffic("s2", 2, source="app", confidence=1.0, output="a"),
        traffic("s3", 3, source="app", confidence=None, output=None, error="lost"),
        traffic("s4", 4, source="batch"),
        settled("s1", "a", 8),
        settled("s2", "b", 9),
        settled("s4", "b", 1),
        settled("s4", None, 2),
    )
    with database.transaction(read_only=True) as tx:
        app, batch = tx.overview.source_history(TASK)
        assert tx.overview.source_history(TASK, ["batch"]) == [batch]
        senders = tx.overview.senders(TASK, ["s1", "s2", "s4", "none"])
        assert tx.overview.senders("another task", ["s1"]) == {}
    assert senders == {"s1": ["app"], "s2": ["app"], "s4": ["batch"]}
    assert (app.source, app.samples, app.mean_confidence) == ("app", 3, 0.75)
    assert (app.expert_labels, app.corrections, app.correction_rate) == (2, 1, 0.5)
    assert app.latest == at(9)
    assert (batch.samples, batch.expert_labels, batch.correction_rate) == (1, 0, 0.0)
    assert batch.latest == at(4)


def test_settled_values_by_what_they_are_good_for(database: Database) -> None:
    record(
        database,
        *(traffic(f"s{i}", origin="ingest") for i in range(6)),
        traffic("elsewhere", task="other"),
        label("s0", "a", "seed", 1),
        label("s1", "a", "seed", 2, split="holdout"),
        label("s2", "a", "auto", 3),
        label("s3", "b", "rule", 4),
        settled("s3", "b", 5),
        label("s4", "b", "seed", 6, split="holdout"),
        settled("s4", "c", 7),
        label("s5", "a", "seed", 8, split="train"),
        label("elsewhere", "a", "seed", 9, task="other"),
    )
    with database.transaction(read_only=True) as tx:
        assert tx.overview.settled_values(TASK) == {"a": (2, 1), "b": (1, 0), "c": (0, 1)}
        assert tx.overview.settled_values("none") == {}


def test_the_texts_of_a_few_samples(database: Database) -> None:
    record(database, traffic("s1", 0), traffic("s2", 9), traffic("s1", 5, task="other"))
    with database.transaction(read_only=True) as tx:
        assert tx.overview.texts(TASK, ["s2", "unknown"]) == {"s2": traffic("s2", 9).text}
        assert tx.overview.texts(TASK, []) == {}


def test_the_senders_of_many_samples_are_one_question(database: Database) -> None:
    record(database, *(traffic(f"s{i}", i, source=f"app {i % 3}") for i in range(60)))
    asked: list[str] = []
    with database.work(read_only=True) as work:
        event.listen(
            work.connection,
            "before_cursor_execute",
            lambda _connection, _cursor, statement, *_more: asked.append(statement),
        )
        found = Overview(work).senders(TASK, [f"s{i}" for i in range(900)])
    assert found == {f"s{i}": [f"app {i % 3}"] for i in range(60)}
    assert len(asked) == 1
