"""What is kept no longer: found from the oldest on, page by page, and removed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Row, Table, and_, delete, or_, select, tuple_

from flywheel.contracts.labels import AUTOMATIC
from flywheel.retention.ports import Cursor, Due, Kind, Page, Walk
from storage.repositories import judged, removal, waiting_totals
from storage.repositories.review_states import answers, outcomes, tasks
from storage.repositories.settled import labels, traffic
from storage.tables.columns import table_of
from storage.tables.evidence import RolloutUnitRow
from storage.tables.retention import ClosedRow
from storage.tables.rollouts import ChampionRow, RolloutRow
from storage.tables.training import TurnRow
from storage.work import Work

_closed = table_of(ClosedRow)
_rollouts = table_of(RolloutRow)
_champions = table_of(ChampionRow)
_turns = table_of(TurnRow)
_units = table_of(RolloutUnitRow)

# Rows looked at in one reading transaction.
PAGE = 1000
# Table of a walk, and what orders it: its moment, and what tells rows of one moment apart.
_WALKS: Mapping[Walk, tuple[Table, Column[Any], Column[Any]]] = {
    "samples": (traffic, traffic.c.occurred_at, traffic.c.event_id),
    "evidence": (judged.scores, judged.scores.c.occurred_at, judged.scores.c.event_id),
    "review": (tasks, tasks.c.requested_at, tasks.c.sample_id),
    "waiting": (labels, labels.c.occurred_at, labels.c.event_id),
}
_SCORE_KEY = tuple(judged.scores.c[name] for name in ("task", "sample_id", "release", "live"))
_KEYS: Mapping[Walk, tuple[Column[Any], ...]] = {
    "samples": (traffic.c.event_id,),
    "evidence": _SCORE_KEY,
    "review": (tasks.c.sample_id,),
    "waiting": (labels.c.event_id,),
}


class SqlExpiry:
    """``retention.ports.Expiry``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def page(
        self, walk: Walk, task: str, before: Mapping[Kind, datetime], after: Cursor | None
    ) -> Page:
        table, moment, tie = _WALKS[walk]
        wanted = select(table).where(table.c.task == task, moment < max(before.values()))
        if walk == "review":
            # Nothing is open and old enough; the index has the closed ones apart.
            wanted = wanted.where(tasks.c.closed.is_(True))
        if walk == "waiting":
            if not waiting_totals.of(self._work, task):
                return Page(due=(), after=None)
            wanted = wanted.where(waiting_totals.WAITS)
        if after is not None:
            further = and_(moment == after.at, tie > after.key)
            wanted = wanted.where(moment >= after.at, or_(moment > after.at, further))
        rows = self._work.rows(wanted.order_by(moment, tie).limit(PAGE))
        due = self._due(walk, task, before, rows)
        last = rows[-1] if len(rows) == PAGE else None
        at = None if last is None else Cursor(last._mapping[moment], last._mapping[tie])
        return Page(due=due, after=at)

    def rows(
        self, walk: Walk, task: str, due: Sequence[Due]
    ) -> dict[str, Sequence[Mapping[str, Any]]]:
        whole = sorted({one.sample_id for one in due if one.whole})
        found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for table in (traffic, labels, judged.truths, judged.scores, *_QUEUE) if whole else ():
            found[table.name] += self._of_samples(table, task, whole)
        table = _WALKS[walk][0]
        found[table.name] += [
            dict(row._mapping) for row in self._stored(walk, task, due, whole=False)
        ]
        if walk == "review":
            ids = [one.sample_id for one in due]
            for beside in (answers, outcomes):
                found[beside.name] += self._of_samples(beside, task, ids)
        return {name: rows for name, rows in found.items() if rows}

    def remove(
        self, walk: Walk, task: str, before: Mapping[Kind, datetime], due: Sequence[Due]
    ) -> Counter[str]:
        removal.hold(self._work, task, {one.sample_id for one in due})
        # Whatever has come meanwhile, a label say, is seen here or waits for us to end.
        rows = self._stored(walk, task, due)
        still = self._due(walk, task, before, rows)
        whole = sorted({one.sample_id for one in still if one.whole})
        went = removal.whole_samples(self._work, task, whole)
        keys = {one.key for one in still if not one.whole}
        going = [row for row in rows if _key_of(walk, row) in keys]
        if walk == "samples":
            went["traffic"] += removal.requests(self._work, task, going)
        elif walk == "evidence":
            went["evidence_scores"] += removal.scores(self._work, going)
        elif walk == "review":
            went += removal.queued(self._work, task, [row.sample_id for row in going])
        return +went

    def close(self, task: str, kind: Kind, before: datetime) -> None:
        row = {"task": task, "kind": kind, "before": before}
        later = lambda new: new["before"] > _closed.c.before  # noqa: E731
        self._work.put(_closed, [row], ["task", "kind"], later)

    def forget_units(self, task: str, before: datetime) -> int:
        ended = select(_rollouts.c.rollout_id).where(
            _rollouts.c.task == task, _rollouts.c.ended_at < before
        )
        return self._work.run(delete(_units).where(_units.c.rollout_id.in_(ended)))

    def _stored(
        self, walk: Walk, task: str, due: Sequence[Due], *, whole: bool | None = None
    ) -> list[Row[Any]]:
        """The task's rows of these that are there; a sample's id may be another task's as well."""
        table, key = _WALKS[walk][0], _KEYS[walk]
        wanted = [one.key for one in due if whole is None or one.whole == whole]
        found: list[Row[Any]] = []
        for start in range(0, len(wanted), PAGE // 4):
            part = wanted[start : start + PAGE // 4]
            if len(key) == 1:
                is_one = key[0].in_([one[0] for one in part])
            else:
                is_one = tuple_(*key).in_(part)
            rows = self._work.rows(select(table).where(is_one))
            found += [row for row in rows if row.task == task]
        return found

    def _of_samples(
        self, table: Table, task: str, sample_ids: Sequence[str]
    ) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for part in self._work.chunks(sample_ids):
            rows = self._work.rows(select(table).where(table.c.sample_id.in_(part)))
            found += [dict(row._mapping) for row in rows if row.task == task]
        return found

    def _due(
        self, walk: Walk, task: str, before: Mapping[Kind, datetime], rows: Sequence[Row[Any]]
    ) -> list[Due]:
        """Those of the rows of a walk's table that are kept no longer."""
        ids = sorted({row.sample_id for row in rows})
        waiting = set() if walk == "review" else self._waiting(task, ids)
        words = {} if walk == "review" else self._words(task, ids)
        if walk == "evidence":
            running = self._running(task)
            return [
                Due(kind="evidence", sample_id=row.sample_id, key=_key_of(walk, row))
                for row in rows
                if row.sample_id not in waiting
                and row.sample_id not in words
                and row.rollout_id not in running
                and row.occurred_at < before["evidence"]
            ]
        if walk == "review":
            return [
                Due(kind="review", sample_id=row.sample_id, key=_key_of(walk, row))
                for row in rows
                if row.closed and row.requested_at < before["review"]
            ]
        needed = self._needed(task, sorted(words)) if words else set()
        heard = self._last_heard(task, sorted(words)) if words else {}
        due: list[Due] = []
        for row in rows:
            last = heard.get(row.sample_id, row.occurred_at)
            kind, at = _kind_of(words.get(row.sample_id, ()), last)
            is_old = kind in before and at < before[kind]
            if is_old and row.sample_id not in waiting and row.sample_id not in needed:
                due.append(
                    Due(
                        kind=kind,
                        sample_id=row.sample_id,
                        key=_key_of(walk, row),
                        whole=kind != "traffic",
                    )
                )
        return due

    def _waiting(self, task: str, sample_ids: Sequence[str]) -> set[str]:
        """Those that wait for an expert."""
        found: set[str] = set()
        for part in self._work.chunks(sample_ids):
            queue = select(tasks.c.sample_id).where(
                tasks.c.task == task, tasks.c.sample_id.in_(part), tasks.c.closed.is_(False)
            )
            found.update(row.sample_id for row in self._work.rows(queue))
        return found

    def _words(self, task: str, sample_ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
        """What was said of samples, as label or as truth."""
        found: dict[str, list[Row[Any]]] = defaultdict(list)
        for part in self._work.chunks(sample_ids):
            for table in (labels, judged.truths):
                said = select(
                    table.c.task, table.c.sample_id, table.c.source, table.c.occurred_at
                ).where(table.c.sample_id.in_(part))
                if table is judged.truths:
                    said = said.where(table.c.task == task)
                for row in self._work.rows(said):
                    if row.task == task:
                        found[row.sample_id].append(row)
        return dict(found)

    def _last_heard(self, task: str, sample_ids: Sequence[str]) -> dict[str, datetime]:
        """When each of these was sent, answered or asked about last: a sample goes whole, also what
        was sent again since."""
        found: dict[str, datetime] = {}
        for part in self._work.chunks(sample_ids):
            for table, moment, own in (
                # The task is no condition of the query: see ``repositories.settled``.
                (traffic, traffic.c.occurred_at, ()),
                (judged.scores, judged.scores.c.occurred_at, (judged.scores.c.task == task,)),
                (tasks, tasks.c.requested_at, (tasks.c.task == task,)),
            ):
                heard = select(table.c.task, table.c.sample_id, moment.label("at")).where(
                    table.c.sample_id.in_(part), *own
                )
                for row in self._work.rows(heard):
                    if row.task == task:
                        found[row.sample_id] = max(found.get(row.sample_id, row.at), row.at)
        return found

    def _running(self, task: str) -> set[str]:
        rows = self._work.rows(
            select(_rollouts.c.rollout_id).where(
                _rollouts.c.task == task, _rollouts.c.ended_at.is_(None)
            )
        )
        return {row.rollout_id for row in rows}

    def _needed(self, task: str, sample_ids: Sequence[str]) -> set[str]:
        """Labelled samples that something under way rests on: a turn that reads the labels, a
        running rollout, the audits of the champion and of the one before it, which a restore goes
        back to."""
        turn = select(_turns.c.turn_id).where(_turns.c.task == task, _turns.c.ended_at.is_(None))
        if self._work.row(turn.limit(1)) is not None:
            return set(sample_ids)
        latest = self._work.rows(
            select(_champions.c.release)
            .where(_champions.c.task == task)
            .order_by(_champions.c.id.desc())
            .limit(2)
        )
        running = self._running(task)
        needed: set[str] = set()
        for part in self._work.chunks(sample_ids):
            for table, name, used in (
                (judged.judged, "rollout_id", running),
                (judged.audited, "release", {row.release for row in latest}),
            ):
                rows = self._work.rows(
                    select(table.c.sample_id).where(
                        table.c.task == task,
                        table.c.sample_id.in_(part),
                        table.c[name].in_(sorted(used)),
                        table.c.gone.is_(False),
                    )
                )
                needed.update(row.sample_id for row in rows)
        return needed


_QUEUE = (tasks, answers, outcomes)


def _kind_of(words: Iterable[Row[Any]], heard_at: datetime) -> tuple[Kind, datetime]:
    """Of which kind a sample is, and when the last thing happened that goes with it."""
    said = list(words)
    last = max([heard_at, *(word.occurred_at for word in said)])
    if any(word.source not in AUTOMATIC for word in said):
        return "labelled", last
    return ("automatic" if said else "traffic"), last


def _key_of(walk: Walk, row: Row[Any]) -> tuple[Any, ...]:
    return tuple(row._mapping[column.name] for column in _KEYS[walk])
