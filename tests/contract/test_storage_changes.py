"""Whoever waits for something in the database sees cheaply that nothing has come, and at once that
something has."""

from __future__ import annotations

from pathlib import Path

import pytest
from storage_events import settled, traffic

import storage.database
from storage.database import Database

# A server's own upkeep may count as a change, now and then.
TRIES = 20


def test_the_version_stays_until_somebody_commits(database: Database) -> None:
    def stays() -> bool:
        before = database.version()
        with database.transaction(read_only=True) as tx:
            tx.rollouts.due()
        return before is not None and database.version() == before

    assert any(stays() for _ in range(TRIES))
    for number in range(3):
        before = database.version()
        with database.transaction() as tx:
            tx.label_intake.record_samples([traffic(f"s{number}")])
        assert database.version() != before


def test_what_is_not_committed_yet_is_a_change_when_it_is(database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1")])
        during = database.version()
    assert database.version() != during


def test_an_empty_outbox_is_read_again_when_there_may_be_something(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = storage.database.unsent
    monkeypatch.setattr(
        storage.database, "unsent", lambda *those: asked.append(those) or real(*those)
    )
    rows = database.outbox_rows("console")
    for _ in range(TRIES):
        assert rows.unsent(10) == []
    assert len(asked) < TRIES
    with database.transaction("console") as tx:
        tx.outbox.add([settled("s1", "a")])
    [(number, _)] = rows.unsent(10)
    assert [found for found, _ in rows.unsent(10)] == [number], "what is there is there again"
    rows.mark_sent([number])
    assert rows.unsent(10) == []


def test_a_database_that_does_not_answer_has_no_version(tmp_path: Path) -> None:
    nowhere = Database(f"sqlite:///{tmp_path}/no/such/folder.db")
    assert nowhere.version() is None
    nowhere.dispose()
