"""Totals are what the rows come to, however those came in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given
from storage_events import TASK, at
from test_storage_order import (
    _events,
    _several,
    _Undo,
    deliveries,
    queue_events,
    state,
    take_in,
)

from flywheel.contracts.events import Event, ReviewRequested
from flywheel.rollout.ports import SETTLE, Rollout
from storage.database import Database, Transaction
from storage.totals import TOTALS
from storage.work import Work

SINCE = at(1)
ROLLOUT = Rollout(
    rollout_id="rollout",
    task=TASK,
    champion="r1",
    challenger="r2",
    state="canary",
    step=0,
    share=0.5,
    started_at=at(0) - SETTLE,
    step_started_at=SINCE - SETTLE,
    resumed_at=at(2) - SETTLE,
)


@contextmanager
def undone(database: Database) -> Iterator[tuple[Work, Transaction]]:
    """A transaction that leaves nothing behind, with what it works by."""
    try:
        with database.work() as work:
            yield work, Transaction(work)
            raise _Undo
    except _Undo:
        pass


def recount(work: Work) -> None:
    for total in TOTALS:
        for part in total.parts(work):
            total.rebuild(work, part)


@_several
@given(both=deliveries(_events))
def test_counted_as_they_come_or_all_at_once(
    database: Database, both: list[list[list[Event]]]
) -> None:
    with undone(database) as (work, tx):
        tx.rollouts.save(ROLLOUT, None)
        for batch in both[0]:
            take_in(tx, batch)
        kept = state(tx)
        windows = [tx.evidence.assignment("rollout", since) for since in (SINCE, at(2))]
        # No window begins between two seconds: this is counted from the rows.
        rows = [tx.evidence.assignment("rollout", at(second + 0.5)) for second in (0, 1)]
        assert windows == rows
        assert tx.balance.waiting().get(TASK, 0) == len(tx.balance.labels_without_sample())
        recount(work)
        assert state(tx) == kept
        assert [tx.evidence.assignment("rollout", since) for since in (SINCE, at(2))] == rows


@_several
@given(both=deliveries(queue_events()))
def test_the_queue_is_counted_as_it_stands(database: Database, both: list[list[list[Any]]]) -> None:
    with undone(database) as (work, tx):
        for batch in both[0]:
            for word in batch:
                if isinstance(word, ReviewRequested):
                    tx.intake.open([word])
                elif isinstance(word, str):
                    tx.intake.withdraw(TASK, [word])
        tx.desk.claim(TASK, "ada", at(10), 60, 1)
        kept = tx.desk.depth(TASK, at(10))
        recount(work)
        assert tx.desk.depth(TASK, at(10)) == kept
