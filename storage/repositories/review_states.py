"""The states of queued samples, and how many are in each: kept as they change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    FromClause,
    and_,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)

from flywheel.review.ports import QueueDepth
from storage.tables.columns import table_of
from storage.tables.review import (
    ReviewAnswerRow,
    ReviewClaimRow,
    ReviewOutcomeRow,
    ReviewTaskRow,
    ReviewTotalRow,
    ReviewWithdrawalRow,
    ReviewWordRow,
)
from storage.work import Work

tasks = table_of(ReviewTaskRow)
claims = table_of(ReviewClaimRow)
answers = table_of(ReviewAnswerRow)
outcomes = table_of(ReviewOutcomeRow)
withdrawals = table_of(ReviewWithdrawalRow)
words = table_of(ReviewWordRow)
totals = table_of(ReviewTotalRow)

CLOSED = ("settled", "unlabelable", "withdrawn")


def same_sample(one: FromClause, other: FromClause) -> ColumnElement[bool]:
    """Whether rows of two tables are about the same sample of the same task."""
    return and_(one.c.task == other.c.task, one.c.sample_id == other.c.sample_id)


# Not a skip.
says_something: ColumnElement[bool] = or_(answers.c.value.is_not(None), answers.c.unlabelable)
_state: ColumnElement[str] = case(
    (
        exists().where(same_sample(outcomes, tasks), outcomes.c.value.is_(None)),
        "unlabelable",
    ),
    (exists().where(same_sample(outcomes, tasks)), "settled"),
    (exists().where(same_sample(withdrawals, tasks)), "withdrawn"),
    (exists().where(same_sample(answers, tasks), says_something), "answered"),
    else_="open",
)


def spoken_of(work: Work, task: str, sample_ids: Iterable[str]) -> set[str]:
    """Those of these samples of which anything was recorded that gives them a state."""
    found: set[str] = set()
    for part in work.chunks(sample_ids):
        for table in (outcomes, withdrawals, answers):
            mine = (table.c.task == task, work.among(table.c.sample_id, part))
            found.update(row.sample_id for row in work.rows(select(table.c.sample_id).where(*mine)))
    return found


def restate(work: Work, task: str, sample_ids: Iterable[str]) -> None:
    """Bring the states of these samples up to date, after anything was recorded of them.

    On PostgreSQL their rows are locked first, so that what others recorded is either seen here or
    brought up to date by them.
    """
    moved: Counter[str] = Counter()
    for part in work.chunks(sorted(set(sample_ids))):
        mine = (tasks.c.task == task, work.among(tasks.c.sample_id, part))
        before = select(tasks.c.sample_id, tasks.c.state).where(*mine).order_by(tasks.c.sample_id)
        if not work.sqlite:
            before = before.with_for_update(key_share=True)
        known = {row.sample_id: row.state for row in work.rows(before)}
        now = work.rows(select(tasks.c.sample_id, _state.label("state")).where(*mine))
        for state in sorted({row.state for row in now}):
            changed = [
                row.sample_id for row in now if row.state == state and known[row.sample_id] != state
            ]
            if changed:
                moved[state] += len(changed)
                moved.subtract(known[sample_id] for sample_id in changed)
                _set(work, task, changed, state)
    add(work, task, moved)


def add(work: Work, task: str, moved: Counter[str]) -> None:
    """So many more (or fewer) samples of the queue are in each state."""
    changes = [
        {"task": task, "state": state, "samples": n} for state, n in sorted(moved.items()) if n
    ]
    work.increment(totals, changes, ["task", "state"])


def rebuild(work: Work, task: str) -> None:
    """Work out the states of a task's whole queue, and count them."""
    work.run(
        update(tasks)
        .where(tasks.c.task == task, tasks.c.state != _state)
        .values(state=_state, closed=_state.in_(CLOSED))
    )
    work.run(
        update(tasks)
        .where(tasks.c.task == task, tasks.c.closed != tasks.c.state.in_(CLOSED))
        .values(closed=tasks.c.state.in_(CLOSED))
    )
    work.run(delete(totals).where(totals.c.task == task))
    rows = work.rows(
        select(tasks.c.state, func.count().label("samples"))
        .where(tasks.c.task == task)
        .group_by(tasks.c.state)
    )
    add(work, task, Counter({row.state: row.samples for row in rows}))


def queue_depth(work: Work, task: str, now: datetime) -> QueueDepth:
    """Counts by state, and since when the oldest open sample waits."""
    rows = work.rows(select(totals.c.state, totals.c.samples).where(totals.c.task == task))
    counts = Counter({row.state: row.samples for row in rows})
    # Not one statement: a database would rather walk through the queue than look up who holds what.
    claimed = work.rows(
        select(claims.c.sample_id)
        .where(claims.c.task == task, claims.c.expires_at > now)
        .distinct()
    )
    held = {row.sample_id for row in claimed}
    of_state: Counter[str] = Counter()
    for part in work.chunks(sorted(held)):
        known = select(tasks.c.sample_id, tasks.c.state, tasks.c.closed).where(
            tasks.c.task == task, work.among(tasks.c.sample_id, part)
        )
        of_state.update(row.state for row in work.rows(known) if not row.closed)
    waiting = work.rows(
        select(tasks.c.sample_id, tasks.c.requested_at)
        .where(tasks.c.task == task, tasks.c.state == "open")
        .order_by(tasks.c.requested_at)
        .limit(of_state["open"] + 1)
    )
    oldest = next((row.requested_at for row in waiting if row.sample_id not in held), None)
    return QueueDepth(
        open=counts["open"] - of_state["open"],
        claimed=of_state.total(),
        submitted=counts["answered"] - of_state["answered"],
        settled=counts["settled"] + counts["unlabelable"],
        withdrawn=counts["withdrawn"],
        unlabelable=counts["unlabelable"],
        oldest_open=oldest,
    )


def _set(work: Work, task: str, sample_ids: list[str], state: str) -> None:
    work.run(
        update(tasks)
        .where(tasks.c.task == task, tasks.c.sample_id.in_(sample_ids))
        .values(state=state, closed=state in CLOSED)
    )
