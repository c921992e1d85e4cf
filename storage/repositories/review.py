"""The expert queue: what the review agent writes, and its state for whoever asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, case, exists, func, select, update

from flywheel.contracts.events import LabelRecorded, ReviewRequested
from flywheel.contracts.ids import utc_now
from flywheel.contracts.sample import decode_content, encode_messages
from flywheel.errors import StorageError
from flywheel.retention.ports import OF_REVIEW
from flywheel.review.ports import ReviewTask
from storage.repositories import removal
from storage.repositories.admission import admitted
from storage.repositories.review_states import (
    add,
    claims,
    restate,
    same_sample,
    spoken_of,
    tasks,
    withdrawals,
    words,
)
from storage.tables.columns import table_of
from storage.tables.review import ReviewEndedRolloutRow, ReviewLiftRow
from storage.work import Work, arrived

_lifts = table_of(ReviewLiftRow)
_ended = table_of(ReviewEndedRolloutRow)
queue_order = (tasks.c.precedence, tasks.c.requested_at, tasks.c.sample_id)


class SqlReviewIntake:
    """``review.ports.ReviewIntake``. A withdrawal or a lift that comes before its sample holds."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def open(self, requests: Sequence[ReviewRequested]) -> int:
        removal.enter(self._work)
        requests = admitted(self._work, requests, OF_REVIEW)
        rows: list[dict[str, Any]] = []
        names = sorted({request.task for request in requests})
        for task in names:
            rows += self._rows(task, [request for request in requests if request.task == task])
        queued = 0
        for task in names:
            queued += self._queue(task, [row for row in rows if row["task"] == task])
        return queued

    def _queue(self, task: str, rows: Sequence[dict[str, Any]]) -> int:
        new = {row["sample_id"]: row for row in reversed(rows)}
        for part in self._work.chunks(list(new)):
            there = select(tasks.c.sample_id).where(
                tasks.c.task == task, self._work.among(tasks.c.sample_id, part)
            )
            for row in self._work.rows(there):
                del new[row.sample_id]
        fresh = list(reversed(new.values()))
        if self._work.add(tasks, fresh, ["task", "sample_id"]) < len(fresh):
            raise StorageError("another worker has just queued the same samples")
        add(self._work, task, Counter({"open": len(fresh)}))
        # What was said of them before they were queued holds.
        restate(self._work, task, spoken_of(self._work, task, new))
        return len(fresh)

    def unheard(self, labels: Sequence[LabelRecorded]) -> set[tuple[str, str]]:
        removal.enter(self._work)
        latest: dict[tuple[str, str], tuple[datetime, str]] = {}
        for label in admitted(self._work, labels, OF_REVIEW):
            key, word = (label.task, label.sample_id), (arrived(label.occurred_at), label.event_id)
            latest[key] = max(word, latest.get(key, word))
        for task in sorted({task for task, _ in latest}):
            for part in self._work.chunks(sample for one, sample in latest if one == task):
                rows = self._work.rows(
                    select(words).where(
                        words.c.task == task, self._work.among(words.c.sample_id, part)
                    )
                )
                for row in rows:
                    word = latest[task, row.sample_id]
                    if row.event_id == word[1] or (row.occurred_at, row.event_id) > word:
                        del latest[task, row.sample_id]
        self._work.put(
            words,
            [
                {"task": task, "sample_id": sample, "event_id": event_id, "occurred_at": at}
                for (task, sample), (at, event_id) in sorted(latest.items())
            ],
            ["task", "sample_id"],
        )
        return set(latest)

    def withdraw(self, task: str, sample_ids: Sequence[str]) -> int:
        rows = [{"task": task, "sample_id": i} for i in dict.fromkeys(sample_ids)]
        queued = 0
        for part in self._work.chunks(sample_ids):
            row = self._work.row(
                select(func.count()).where(
                    tasks.c.task == task,
                    self._work.among(tasks.c.sample_id, part),
                    tasks.c.closed.is_(False),
                )
            )
            queued += int(row[0]) if row else 0
        self._work.add(withdrawals, rows, ["task", "sample_id"])
        restate(self._work, task, sample_ids)
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
        rows, now = [], utc_now()
        # The smallest event id wins inside a batch too, as it mostly does between batches.
        for request in sorted(requests, key=lambda r: r.event_id):
            lift = lifts.get(request.release or "", 0.0)
            own = request.priority
            if request.audit:
                own = min(own, ended.get(request.rollout_id or "", own))
            rows.append(_task_values(request, max(own, lift), now))
        return rows

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


def state_at(now: datetime) -> ColumnElement[str]:
    """The state of a queued sample at a moment, from what the console has recorded of it."""
    is_claimed = exists().where(same_sample(claims, tasks), claims.c.expires_at > now)
    return case(
        (tasks.c.state == "unlabelable", "settled"),
        (tasks.c.closed, tasks.c.state),
        (is_claimed, "claimed"),
        (tasks.c.state == "answered", "submitted"),
        else_="open",
    ).label("state_now")


def review_task(row: Row[Any], state: Any) -> ReviewTask:
    """A row of the task table, with its state."""
    values = dict(row._mapping)
    for name in ("event_id", "closed", "state_now"):
        values.pop(name, None)
    values["content"] = decode_content(values.pop("text"), values.pop("messages"))
    values["priority"] = -values.pop("precedence")
    values["state"] = state
    return ReviewTask(**values)


def _task_values(request: ReviewRequested, priority: float, now: datetime) -> dict[str, Any]:
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
        "state": "open",
        "requested_at": arrived(request.occurred_at, now),
    }
