"""The experts' desk: claims, answers and outcomes; written by the console."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table, and_, case, delete, exists, func, select

from flywheel.contracts.events import LabelSettled
from flywheel.contracts.ids import utc_now
from flywheel.errors import Conflict
from flywheel.review.ports import Answer, QueueDepth, Resettle, ReviewTask, Undone
from storage.repositories.review import queue_order, review_task, state_at
from storage.repositories.review_states import (
    answers,
    claims,
    outcomes,
    queue_depth,
    restate,
    same_sample,
    says_something,
    tasks,
    totals,
)
from storage.work import Work


class SqlReviewDesk:
    """``review.ports.ReviewDesk``.

    SQLite runs one writing transaction at a time. On PostgreSQL the row of the queued sample is
    locked, and what else was recorded of the sample is read after that, in a statement of its
    own: so it includes what anyone committed before, and no one can add to it meanwhile.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def claim(
        self,
        task: str,
        annotator: str,
        now: datetime,
        lease_seconds: float,
        limit: int,
        answers_needed: int = 1,
    ) -> list[ReviewTask]:
        expires_at = now + timedelta(seconds=lease_seconds)
        given = self._held(task, annotator, now, limit)
        while len(given) < limit:
            wanted = self._free(task, annotator, now, answers_needed)
            candidates = self._lock_some(wanted, limit - len(given))
            if not candidates:
                break
            # Someone may have taken a candidate between the search and the lock.
            still = wanted.where(tasks.c.sample_id.in_(candidates))
            free = [row.sample_id for row in self._work.rows(still)]
            self._hold(task, free, annotator, expires_at)
            given += free
        self._hold(task, given, annotator, expires_at)
        claimed = {row.sample_id: row for row in self._tasks(task, given)}
        return [review_task(claimed[sample_id], "claimed") for sample_id in given]

    def find(self, task: str, sample_id: str) -> ReviewTask | None:
        self._lock(task, sample_id)
        row = self._work.row(
            select(tasks, state_at(utc_now())).where(_of_sample(tasks, task, sample_id))
        )
        return None if row is None else review_task(row, row.state_now)

    def answers(self, task: str, sample_id: str) -> list[Answer]:
        self._lock(task, sample_id)
        rows = self._work.rows(
            select(answers).where(_of_sample(answers, task, sample_id)).order_by(answers.c.id)
        )
        return [
            Answer(
                sample_id=row.sample_id,
                annotator=row.annotator,
                value=row.value,
                unlabelable=row.unlabelable,
                answered_at=row.answered_at,
                seconds=row.seconds,
            )
            for row in rows
        ]

    def answer(self, task: str, answer: Answer, settled: LabelSettled | None) -> None:
        self._lock(task, answer.sample_id)
        values = {
            "task": task,
            "sample_id": answer.sample_id,
            "annotator": answer.annotator,
            "value": answer.value,
            "unlabelable": answer.unlabelable,
            "answered_at": answer.answered_at,
            "seconds": answer.seconds,
        }
        if not self._work.add(answers, [values], ["task", "sample_id", "annotator"]):
            raise Conflict(f"{answer.annotator} has answered or skipped {answer.sample_id} already")
        self._work.run(
            delete(claims).where(
                _of_sample(claims, task, answer.sample_id), claims.c.annotator == answer.annotator
            )
        )
        self._record(task, settled)
        restate(self._work, task, [answer.sample_id])

    def undo(
        self, task: str, annotator: str, now: datetime, lease_seconds: float, resettle: Resettle
    ) -> Undone | None:
        latest = self._work.row(
            select(answers.c.id, answers.c.sample_id)
            .where(answers.c.task == task, answers.c.annotator == annotator)
            .order_by(answers.c.answered_at.desc(), answers.c.id.desc())
            .limit(1)
        )
        before = None if latest is None else self.find(task, latest.sample_id)
        if latest is None or before is None:
            return None
        given = self.answers(task, latest.sample_id)
        taken_back = next((one for one in given if one.annotator == annotator), None)
        if taken_back is None:  # another request of theirs did, before the lock was ours
            return self.undo(task, annotator, now, lease_seconds, resettle)
        self._work.run(delete(answers).where(answers.c.id == latest.id))
        settled = resettle(before, taken_back, [one for one in given if one != taken_back])
        self._record(task, settled)
        restate(self._work, task, [latest.sample_id])
        sample = self.find(task, latest.sample_id) or before
        if sample.state not in ("settled", "withdrawn"):
            self._hold(task, [latest.sample_id], annotator, now + timedelta(seconds=lease_seconds))
            sample = msgspec.structs.replace(sample, state="claimed")
        return Undone(sample=sample, settled=settled)

    def queued(self) -> set[str]:
        waiting = totals.c.state.in_(("open", "answered")) & (totals.c.samples > 0)
        return {row.task for row in self._work.rows(select(totals.c.task).where(waiting))}

    def depth(self, task: str, now: datetime) -> QueueDepth:
        return queue_depth(self._work, task, now)

    def _record(self, task: str, settled: LabelSettled | None) -> None:
        if settled is None:
            return
        if settled.withdraws:
            self._work.run(delete(outcomes).where(_of_sample(outcomes, task, settled.sample_id)))
            return
        outcome = {
            "task": task,
            "sample_id": settled.sample_id,
            "event_id": settled.event_id,
            "value": settled.value,
            "settled_at": settled.occurred_at,
        }
        self._work.put(outcomes, [outcome], ["task", "sample_id"])

    @property
    def _locks(self) -> bool:
        return not self._work.sqlite and not self._work.read_only

    def _held(self, task: str, annotator: str, now: datetime, limit: int) -> list[str]:
        rows = self._work.rows(
            select(tasks.c.sample_id)
            .join(claims, same_sample(claims, tasks))
            .where(
                tasks.c.task == task,
                claims.c.annotator == annotator,
                claims.c.expires_at > now,
                tasks.c.closed.is_(False),
            )
            .order_by(*queue_order)
            .limit(limit)
        )
        return [row.sample_id for row in rows]

    def _free(self, task: str, annotator: str, now: datetime, answers_needed: int) -> Any:
        held_by_others = (
            select(func.count())
            .where(
                same_sample(claims, tasks),
                claims.c.annotator != annotator,
                claims.c.expires_at > now,
            )
            .scalar_subquery()
        )
        mine = exists().where(
            same_sample(claims, tasks),
            claims.c.annotator == annotator,
            claims.c.expires_at > now,
        )
        return (
            select(tasks.c.sample_id)
            .where(
                tasks.c.task == task,
                tasks.c.closed.is_(False),
                ~mine,
                ~exists().where(same_sample(answers, tasks), answers.c.annotator == annotator),
                held_by_others < _answers_missing(answers_needed),
            )
            .order_by(*queue_order)
        )

    def _lock_some(self, wanted: Any, limit: int) -> list[str]:
        statement = wanted.limit(limit)
        if self._locks:
            statement = statement.with_for_update(of=tasks, skip_locked=True, key_share=True)
        return [row.sample_id for row in self._work.rows(statement)]

    def _lock(self, task: str, sample_id: str) -> None:
        if self._locks:
            self._work.row(
                select(tasks.c.sample_id)
                .where(_of_sample(tasks, task, sample_id))
                .with_for_update(key_share=True)
            )

    def _hold(self, task: str, sample_ids: list[str], annotator: str, expires_at: datetime) -> None:
        rows = [
            {
                "task": task,
                "sample_id": sample_id,
                "annotator": annotator,
                "expires_at": expires_at,
            }
            for sample_id in sample_ids
        ]
        self._work.put(claims, rows, ["task", "sample_id", "annotator"])

    def _tasks(self, task: str, sample_ids: list[str]) -> Any:
        return self._work.rows(
            select(tasks).where(tasks.c.task == task, tasks.c.sample_id.in_(sample_ids))
        )


def _of_sample(table: Table, task: str, sample_id: str) -> ColumnElement[bool]:
    return and_(table.c.task == task, table.c.sample_id == sample_id)


def _answers_missing(answers_needed: int) -> ColumnElement[int]:
    """How many more experts a sample waits for: one at least, as long as it is not settled."""
    given = (
        select(func.count()).where(same_sample(answers, tasks), says_something).scalar_subquery()
    )
    return case((given < answers_needed, answers_needed - given), else_=1)
