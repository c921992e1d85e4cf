"""Evidence as it is read: both arms of a rollout, and audits of a release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, func, or_, select

from flywheel.contracts.stores import AuditedPrediction
from flywheel.kinds.predictions import is_right
from flywheel.rollout.ports import ArmSummary, Assignment, Pair, StepCounts
from storage.tables.columns import table_of
from storage.tables.evidence import ScoreRow, TruthRow
from storage.tables.labels import TrafficRow
from storage.tables.review import ReviewTaskRow
from storage.work import Work

_scores = table_of(ScoreRow)
_truths = table_of(TruthRow)
_queued = table_of(ReviewTaskRow)
_traffic = table_of(TrafficRow)
_NEWEST = 2000
_same_sample = and_(_truths.c.task == _scores.c.task, _truths.c.sample_id == _scores.c.sample_id)


class SqlEvidence:
    """``rollout.ports.Evidence``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def arms(self, rollout_id: str) -> tuple[ArmSummary, ArmSummary]:
        counts = self._work.rows(_counts(rollout_id))
        audits = self._audits(rollout_id)
        return (
            self._arm(rollout_id, "champion", counts, audits["champion"]),
            self._arm(rollout_id, "challenger", counts, audits["challenger"]),
        )

    def pairs(self, rollout_id: str) -> list[Pair]:
        """Audited samples scored by both arms in this rollout, in the order they were labelled.

        One that nobody can label is left out: whether it can be is its own, not an arm's, and
        neither answer to it is the better one.
        """
        rows = self._work.rows(
            select(
                _scores.c.arm,
                _scores.c.live,
                _scores.c.output,
                _scores.c.scores,
                _scores.c.occurred_at.label("scored_at"),
                _scores.c.event_id.label("scored_by"),
                *_truth_columns,
            )
            .join(_truths, _same_sample)
            .where(_scores.c.rollout_id == rollout_id, _scores.c.output.is_not(None), *_audited())
            .where(_truths.c.value.is_not(None))
        )
        answers: dict[tuple[str, str], Row[Any]] = {}
        # Live before shadow; of several of a kind, the first.
        for row in sorted(rows, key=lambda row: (not row.live, row.scored_at, row.scored_by)):
            answers.setdefault((row.sample_id, row.arm), row)
        pairs = []
        for (sample_id, arm), champion in answers.items():
            challenger = answers.get((sample_id, "challenger"))
            if arm == "champion" and challenger is not None:
                pairs.append((champion, challenger))
        pairs.sort(key=lambda pair: (pair[0].occurred_at, pair[0].event_id))
        return [
            Pair(
                sample_id=champion.sample_id,
                champion_correct=_right(champion),
                challenger_correct=_right(challenger),
                inclusion_probability=champion.inclusion_probability,
                labelled_at=champion.occurred_at,
            )
            for champion, challenger in pairs
        ]

    def assignment(self, rollout_id: str, since: datetime) -> Assignment:
        by_unit = (
            select(_scores.c.arm, _scores.c.unit, func.count().label("requests"))
            .where(
                _scores.c.rollout_id == rollout_id,
                _scores.c.live.is_(True),
                _scores.c.occurred_at >= since,
            )
            .group_by(_scores.c.arm, _scores.c.unit)
            .subquery()
        )
        rows = self._work.rows(
            select(
                by_unit.c.arm,
                func.sum(by_unit.c.requests).label("requests"),
                func.count().label("units"),
                func.max(by_unit.c.requests).label("heaviest"),
            ).group_by(by_unit.c.arm)
        )
        requests = {row.arm: int(row.requests) for row in rows}
        units = {row.arm: row.units for row in rows}
        return Assignment(
            champion_requests=requests.get("champion", 0),
            challenger_requests=requests.get("challenger", 0),
            champion_units=units.get("champion", 0),
            challenger_units=units.get("challenger", 0),
            heaviest_requests=max((row.heaviest for row in rows), default=0),
        )

    def _audits(self, rollout_id: str) -> dict[str, tuple[int, int]]:
        """Arm → (audited, correct) of its live answers. What experts were asked because the model
        was unsure, and what users object to, is harder than the traffic is, and left out; one that
        nobody can label says nothing of either arm."""
        rows = self._work.rows(
            select(
                _scores.c.arm,
                _scores.c.output,
                _scores.c.scores,
                *_truth_columns,
            )
            .join(_truths, _same_sample)
            .where(
                _scores.c.rollout_id == rollout_id,
                _scores.c.live.is_(True),
                _scores.c.output.is_not(None),
                *_audited(),
                _truths.c.value.is_not(None),
            )
        )
        totals = {"champion": (0, 0), "challenger": (0, 0)}
        for row in rows:
            if row.arm in totals:
                audited, correct = totals[row.arm]
                totals[row.arm] = (audited + 1, correct + _right(row))
        return totals

    def _arm(
        self, rollout_id: str, arm: str, every: Sequence[Row[Any]], audits: tuple[int, int]
    ) -> ArmSummary:
        counts = [row for row in every if row.arm == arm]
        if not counts:
            return ArmSummary()
        # A cached answer's latency says nothing of the model, and only the older arm has a warm
        # cache.
        timed = (
            _scores.c.rollout_id == rollout_id,
            _scores.c.arm == arm,
            _scores.c.live.is_(True),
            _scores.c.failed.is_(False),
            _scores.c.cached.is_(False),
        )
        newest = (
            select(_scores.c.latency_ms)
            .where(*timed)
            .order_by(_scores.c.occurred_at.desc())
            .limit(_NEWEST)
        )
        share, bucket = _scores.c.challenger_share, _scores.c.latency_bucket
        buckets = self._work.rows(
            select(share, bucket, func.count().label("n")).where(*timed).group_by(share, bucket)
        )
        steps = [_step(row, buckets) for row in counts]
        steps.sort(key=lambda step: -1.0 if step.share is None else step.share)
        return ArmSummary(
            requests=sum(step.requests for step in steps),
            errors=sum(step.errors for step in steps),
            audited=audits[0],
            correct=audits[1],
            shadow_requests=sum(step.shadow_requests for step in steps),
            shadow_errors=sum(step.shadow_errors for step in steps),
            latencies_ms=tuple(row[0] for row in self._work.rows(newest)),
            latency_buckets=_summed(buckets),
            # Evidence from before shares were recorded knows of no steps.
            steps=() if {step.share for step in steps} == {None} else tuple(steps),
        )


def _step(counts: Row[Any], buckets: Sequence[Row[Any]]) -> StepCounts:
    return StepCounts(
        share=counts.challenger_share,
        requests=counts.requests,
        errors=counts.errors,
        shadow_requests=counts.shadow_requests,
        shadow_errors=counts.shadow_errors,
        latency_buckets=_summed(
            [row for row in buckets if row.challenger_share == counts.challenger_share]
        ),
    )


def _summed(buckets: Sequence[Row[Any]]) -> tuple[tuple[int, int], ...]:
    """(bucket, how many), by rising bucket."""
    total: Counter[int] = Counter()
    for row in buckets:
        total[row.latency_bucket] += row.n
    return tuple(sorted(total.items()))


class SqlAuditLog:
    """``contracts.stores.AuditLog``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def audits(self, task: str, release: str) -> list[AuditedPrediction]:
        """Uniformly audited samples that ``release`` scored, live or shadow, oldest label first;
        also those that nobody can label.

        One whose text is not known (yet) is left out: nobody can tell who decides about it.
        """
        scored = self._work.rows(
            select(
                _text.label("text"),
                _scores.c.live,
                _scores.c.output,
                _scores.c.confidence,
                _scores.c.scores,
                *_truth_columns,
            )
            .join(_scores, _same_sample)
            .outerjoin(
                _queued,
                and_(_queued.c.task == _truths.c.task, _queued.c.sample_id == _truths.c.sample_id),
            )
            .where(
                _truths.c.task == task,
                _scores.c.release == release,
                _scores.c.output.is_not(None),
                *_audited(),
                _is_word,
            )
            .order_by(_truths.c.occurred_at, _truths.c.event_id)
        )
        # A sample that the release scored twice counts as it was answered live.
        rows = {row.sample_id: row for row in scored if row.text is not None}
        rows |= {row.sample_id: row for row in scored if row.text is not None and row.live}
        return [
            AuditedPrediction(
                sample_id=row.sample_id,
                text=row.text,
                prediction=row.output,
                label=row.value,
                confidence=row.confidence or 0.0,
                scores=row.scores,
                inclusion_probability=row.inclusion_probability,
                labelled_at=row.occurred_at,
                correct=row.value is not None and _right(row),
            )
            for row in rows.values()
        ]


# Not withdrawn: a value, or that there can be none.
_is_word = or_(_truths.c.value.is_not(None), _truths.c.unlabelable)
# What the expert read; without a queue (a database that was filled by hand), what was sent first.
_text = func.coalesce(
    _queued.c.text,
    select(_traffic.c.text)
    .where(_traffic.c.task == _truths.c.task, _traffic.c.sample_id == _truths.c.sample_id)
    .order_by(_traffic.c.occurred_at, _traffic.c.event_id)
    .limit(1)
    .correlate(_truths)
    .scalar_subquery(),
)
_truth_columns = (
    _truths.c.sample_id,
    _truths.c.value,
    _truths.c.rank,
    _truths.c.inclusion_probability,
    _truths.c.occurred_at,
    _truths.c.event_id,
)


def _right(row: Row[Any]) -> bool:
    return is_right(row.output, row.value, row.scores)


def _counts(rollout_id: str) -> Select[Any]:
    """Requests of each arm in each step of a rollout: live and in shadow, and how many of them
    failed."""
    live = _scores.c.live.is_(True)

    def total(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.sum(case((condition, 1), else_=0))

    return (
        select(
            _scores.c.arm,
            _scores.c.challenger_share,
            total(live).label("requests"),
            total(live & _scores.c.failed).label("errors"),
            total(~_scores.c.live).label("shadow_requests"),
            total(~_scores.c.live & _scores.c.failed).label("shadow_errors"),
        )
        .where(_scores.c.rollout_id == rollout_id)
        .group_by(_scores.c.arm, _scores.c.challenger_share)
    )


def _audited() -> list[Any]:
    return [
        _truths.c.source == "expert",
        _truths.c.audit.is_(True),
    ]
