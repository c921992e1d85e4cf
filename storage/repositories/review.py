"""The expert queue: what the review agent writes, and its state for whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Row,
    and_,
    case,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)

from flywheel.contracts.events import ReviewRequested
from flywheel.contracts.ids import utc_now
from flywheel.contracts.sample import decode_content, encode_messages
from flywheel.review.ports import QueueDepth, ReviewTask
from storage.tables.columns import table_of
from storage.tables.review import (
    ReviewAnswerRow,
    ReviewClaimRow,
    ReviewEndedRolloutRow,
    ReviewLiftRow,
    ReviewOutcomeRow,
    ReviewTaskRow,
    ReviewWithdrawalRow,
)
from storage.work import Work, arrived

tasks = table_of(ReviewTaskRow)
claims = table_of(ReviewClaimRow)
answers = table_of(ReviewAnswerRow)
outcomes = table_of(ReviewOutcomeRow)
_withdrawals = table_of(ReviewWithdrawalRow)
_lifts = table_of(ReviewLiftRow)
_ended = table_of(ReviewEndedRolloutRow)
queue_order = (tasks.c.precedence, tasks.c.requested_at, tasks.c.sample_id)
_CLOSED_AFTER = timedelta(hours=1)
_FRONT = 500


class SqlReviewIntake:
    """``review.ports.ReviewIntake``. A withdrawal or a lift that comes before its sample holds."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def open(self, requests: Sequence[ReviewRequested]) -> int:
        rows: list[dict[str, Any]] = []
        names = sorted({request.task for request in requests})
        for task in names:
            rows += self._rows(task, [request for request in requests if request.task == task])
        new = self._work.add(tasks, rows, ["task", "sample_id"])
        for task in names:
            self._close_front(task)
        self._reopen()
        return new

    def withdraw(self, task: str, sample_ids: Sequence[str]) -> int:
        rows = [{"task": task, "sample_id": i} for i in dict.fromkeys(sample_ids)]
        queued = 0
        for part in self._work.chunks(sample_ids):
            row = self._work.row(
                select(func.count()).where(
                    tasks.c.task == task, tasks.c.sample_id.in_(part), ~is_settled, ~is_withdrawn
                )
            )
            queued += int(row[0]) if row else 0
        self._work.add(_withdrawals, rows, ["task", "sample_id"])
        return queued

    def raise_priority(self, task: str, release: str, priority: float) -> int:
        """Lift the task's samples that ``release`` answered, and those to come, to at least
        ``priority``."""
        lift = {"task": task, "release": release, "priority": priority}
        self._work.put(
            _lifts, [lift], ["task", "release"], lambda new: new["priority"] > _lifts.c.priority
        )
        return self._work.run(
            update(tasks)
            .where(tasks.c.task == task, tasks.c.release == release, tasks.c.precedence > -priority)
            .values(precedence=-priority)
        )

    def end_rollout(self, task: str, rollout_id: str, priority: float) -> int:
        """Give the rollout's audits, and those to come, at most ``priority``."""
        ended = {"task": task, "rollout_id": rollout_id, "priority": priority}
        self._work.add(_ended, [ended], ["task", "rollout_id"])
        # A lift outranks it, whichever of the two came first.
        lift = (
            select(_lifts.c.priority)
            .where(_lifts.c.task == tasks.c.task, _lifts.c.release == tasks.c.release)
            .correlate(tasks)
            .scalar_subquery()
        )
        left = case((lift > priority, lift), else_=priority)
        return self._work.run(
            update(tasks)
            .where(
                tasks.c.task == task,
                tasks.c.rollout_id == rollout_id,
                tasks.c.audit,
                tasks.c.precedence < -left,
            )
            .values(precedence=-left)
        )

    def _rows(self, task: str, requests: Sequence[ReviewRequested]) -> list[dict[str, Any]]:
        lifts = self._lifts(task, {r.release for r in requests if r.release is not None})
        ended = self._ended(task, {r.rollout_id for r in requests if r.rollout_id is not None})
        rows = []
        # The smallest event id wins inside a batch too, as it mostly does between batches.
        for request in sorted(requests, key=lambda r: r.event_id):
            lift = lifts.get(request.release or "", 0.0)
            own = request.priority
            if request.audit:
                own = min(own, ended.get(request.rollout_id or "", own))
            rows.append(_task_values(request, max(own, lift)))
        return rows

    def _close_front(self, task: str) -> None:
        """Close what is done at the front of the queue, where it is in the way of claims."""
        long_ago = utc_now() - _CLOSED_AFTER
        front = (
            select(tasks.c.task, tasks.c.sample_id)
            .where(tasks.c.task == task, tasks.c.closed.is_(False))
            .order_by(*queue_order)
            .limit(_FRONT)
            .subquery()
        )
        done = or_(
            exists().where(same_sample(outcomes, front), outcomes.c.settled_at < long_ago),
            exists().where(same_sample(_withdrawals, front)),
        )
        fronts = [row.sample_id for row in self._work.rows(select(front).where(done))]
        if fronts:
            self._work.run(
                update(tasks)
                .where(tasks.c.task == task, tasks.c.sample_id.in_(fronts))
                .values(closed=True)
            )

    def _reopen(self) -> None:
        """An expert took back an old answer: the sample waits again."""
        undone = tasks.c.closed.is_(True) & ~is_settled & ~is_withdrawn
        key = tuple_(tasks.c.task, tasks.c.sample_id)
        held = select(claims.c.task, claims.c.sample_id)
        rows = self._work.rows(select(tasks.c.task, tasks.c.sample_id).where(key.in_(held), undone))
        if rows:
            keys = [(row.task, row.sample_id) for row in rows]
            self._work.run(update(tasks).where(key.in_(keys)).values(closed=False))

    def _ended(self, task: str, rollout_ids: set[str]) -> dict[str, float]:
        if not rollout_ids:
            return {}
        rows = self._work.rows(
            select(_ended).where(_ended.c.task == task, _ended.c.rollout_id.in_(rollout_ids))
        )
        return {row.rollout_id: row.priority for row in rows}

    def _lifts(self, task: str, releases: set[str]) -> dict[str, float]:
        if not releases:
            return {}
        rows = self._work.rows(
            select(_lifts).where(_lifts.c.task == task, _lifts.c.release.in_(releases))
        )
        return {row.release: row.priority for row in rows}


def same_sample(one: FromClause, other: FromClause) -> ColumnElement[bool]:
    """Whether rows of two tables are about the same sample of the same task."""
    return and_(one.c.task == other.c.task, one.c.sample_id == other.c.sample_id)


is_settled: ColumnElement[bool] = exists().where(same_sample(outcomes, tasks))
is_withdrawn: ColumnElement[bool] = exists().where(same_sample(_withdrawals, tasks))
# Not a skip.
says_something: ColumnElement[bool] = or_(answers.c.value.is_not(None), answers.c.unlabelable)
is_answered: ColumnElement[bool] = exists().where(same_sample(answers, tasks), says_something)


def state_at(now: datetime) -> ColumnElement[str]:
    """The state of a queued sample at a moment, from what the console has recorded of it."""
    is_claimed = exists().where(same_sample(claims, tasks), claims.c.expires_at > now)
    return case(
        (is_settled, "settled"),
        (is_withdrawn, "withdrawn"),
        (is_claimed, "claimed"),
        (is_answered, "submitted"),
        else_="open",
    ).label("state")


def queue_depth(work: Work, task: str, now: datetime) -> QueueDepth:
    """Counts by state, and since when the oldest open sample waits."""
    states = (
        select(state_at(now), tasks.c.requested_at).where(tasks.c.task == task).subquery("states")
    )
    rows = work.rows(
        select(
            states.c.state,
            func.count().label("n"),
            func.min(states.c.requested_at).label("oldest"),
        ).group_by(states.c.state)
    )
    counts = {row.state: row.n for row in rows}
    given_up = work.row(
        select(func.count()).where(outcomes.c.task == task, outcomes.c.value.is_(None))
    )
    counts["unlabelable"] = int(given_up[0]) if given_up else 0
    oldest = next((row.oldest for row in rows if row.state == "open"), None)
    return QueueDepth(**counts, oldest_open=oldest)


def review_task(row: Row[Any], state: Any) -> ReviewTask:
    """A row of the task table, with its state."""
    values = dict(row._mapping)
    del values["event_id"], values["closed"]
    values["content"] = decode_content(values.pop("text"), values.pop("messages"))
    values["priority"] = -values.pop("precedence")
    values["state"] = state
    return ReviewTask(**values)


def _task_values(request: ReviewRequested, priority: float) -> dict[str, Any]:
    return {
        "sample_id": request.sample_id,
        "event_id": request.event_id,
        "task": request.task,
        "text": request.text,
        "messages": encode_messages(request.content),
        "reason": request.reason,
        "precedence": -priority,
        "inclusion_probability": request.inclusion_probability,
        "audit": request.audit,
        "release": request.release,
        "prediction": request.prediction,
        "scores": request.scores,
        "confidence": request.confidence,
        "rollout_id": request.rollout_id,
        "source": request.source,
        "tokens_cut": request.tokens_cut,
        "closed": False,
        "requested_at": arrived(request.occurred_at),
    }
