"""Evidence as it is read: both arms of a rollout, and audits of a release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, func, literal, select

from flywheel.contracts.stores import AuditChanges, AuditedPrediction
from flywheel.rollout.ports import ArmSummary, Assignment, Judged, StepCounts
from storage.repositories.judged import audited, judged
from storage.repositories.rollout_totals import (
    ARMS,
    NO_SHARE,
    latencies,
    totals,
    window_from_units,
    windows,
)
from storage.tables.columns import table_of
from storage.tables.evidence import ScoreRow
from storage.tables.labels import TrafficRow
from storage.tables.review import ReviewTaskRow
from storage.work import Work

_scores = table_of(ScoreRow)
_queued = table_of(ReviewTaskRow)
_traffic = table_of(TrafficRow)


class SqlEvidence:
    """``rollout.ports.Evidence``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def arms(self, rollout_id: str) -> tuple[ArmSummary, ArmSummary]:
        counts = self._work.rows(select(totals).where(totals.c.rollout_id == rollout_id))
        buckets = self._work.rows(select(latencies).where(latencies.c.rollout_id == rollout_id))
        champion, challenger = (
            _summary(
                [row for row in counts if row.arm == arm],
                [row for row in buckets if row.arm == arm],
            )
            for arm in ARMS
        )
        return champion, challenger

    def judged(self, rollout_id: str, after: int = 0) -> list[Judged]:
        rows = self._work.rows(
            select(judged).where(judged.c.rollout_id == rollout_id, judged.c.seq > after)
        )
        return [
            Judged(
                sample_id=row.sample_id,
                seq=row.seq,
                gone=row.gone,
                champion=row.champion,
                champion_live=row.champion_live,
                challenger=row.challenger,
                challenger_live=row.challenger_live,
                inclusion_probability=row.inclusion_probability,
                event_id=row.event_id,
                labelled_at=row.occurred_at,
            )
            for row in rows
        ]

    def assignment(self, rollout_id: str, since: datetime) -> Assignment:
        kept = self._work.rows(
            select(windows).where(windows.c.rollout_id == rollout_id, windows.c.since == since)
        )
        # Nothing has come since the window opened, or nobody has opened it.
        rows = kept or self._work.rows(_window_of(rollout_id, since))
        of_arm = {row.arm: row for row in rows}

        def number(arm: str, name: str) -> int:
            return int(getattr(of_arm[arm], name)) if arm in of_arm else 0

        return Assignment(
            champion_requests=number("champion", "requests"),
            challenger_requests=number("challenger", "requests"),
            champion_units=number("champion", "units"),
            challenger_units=number("challenger", "units"),
            heaviest_requests=max(number(arm, "heaviest") for arm in ARMS),
        )


def _summary(counts: Sequence[Row[Any]], buckets: Sequence[Row[Any]]) -> ArmSummary:
    if not counts:
        return ArmSummary()
    shares = sorted({row.share for row in counts})
    steps = [
        _step(
            share,
            [row for row in counts if row.share == share],
            [row for row in buckets if row.share == share],
        )
        for share in shares
    ]
    return ArmSummary(
        requests=sum(step.requests for step in steps),
        errors=sum(step.errors for step in steps),
        shadow_requests=sum(step.shadow_requests for step in steps),
        shadow_errors=sum(step.shadow_errors for step in steps),
        latency_buckets=_summed(buckets),
        # Evidence from before shares were recorded knows of no steps.
        steps=() if shares == [NO_SHARE] else tuple(steps),
    )


def _step(share: float, counts: Sequence[Row[Any]], buckets: Sequence[Row[Any]]) -> StepCounts:
    return StepCounts(
        share=None if share == NO_SHARE else share,
        requests=sum(row.requests for row in counts if row.live),
        errors=sum(row.failed for row in counts if row.live),
        shadow_requests=sum(row.requests for row in counts if not row.live),
        shadow_errors=sum(row.failed for row in counts if not row.live),
        latency_buckets=_summed(buckets),
    )


def _summed(buckets: Sequence[Row[Any]]) -> tuple[tuple[int, int], ...]:
    """(bucket, how many), by rising bucket."""
    total: Counter[int] = Counter()
    for row in buckets:
        total[row.bucket] += row.answers
    return tuple((bucket, answers) for bucket, answers in sorted(total.items()) if answers)


def _window_of(rollout_id: str, since: datetime) -> Select[Any]:
    by_unit = (
        select(
            _scores.c.rollout_id,
            literal(since, windows.c.since.type).label("since"),
            _scores.c.arm,
            _scores.c.unit,
            func.count().label("requests"),
        )
        .where(
            _scores.c.rollout_id == rollout_id,
            _scores.c.live.is_(True),
            _scores.c.occurred_at >= since,
        )
        .group_by(_scores.c.rollout_id, _scores.c.arm, _scores.c.unit)
        .subquery()
    )
    found: Select[Any] = window_from_units(by_unit, (rollout_id, since))
    return found


class SqlAuditLog:
    """``contracts.stores.AuditLog``."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        """Also of those that nobody can label.

        One whose text is not known (yet) waits: nobody can tell who decides about it. What follows
        it is then said again next time.
        """
        rows = self._work.rows(
            select(audited, _text.label("text"))
            .outerjoin(
                _queued,
                and_(_queued.c.task == audited.c.task, _queued.c.sample_id == audited.c.sample_id),
            )
            .where(audited.c.task == task, audited.c.release == release, audited.c.seq > after)
        )
        waiting = [row.seq for row in rows if row.text is None and not row.gone]
        seq = min(waiting) - 1 if waiting else max((row.seq for row in rows), default=after)
        return AuditChanges(
            seq=seq,
            audits=[
                AuditedPrediction(
                    sample_id=row.sample_id,
                    text=row.text,
                    prediction=row.output,
                    label=row.label,
                    confidence=row.confidence or 0.0,
                    scores=row.scores,
                    inclusion_probability=row.inclusion_probability,
                    labelled_at=row.occurred_at,
                    correct=row.correct,
                )
                for row in rows
                if row.text is not None and not row.gone
            ],
            gone=[row.sample_id for row in rows if row.gone],
        )


# What the expert read; without a queue (a database that was filled by hand), what was sent first.
_text = func.coalesce(
    _queued.c.text,
    select(_traffic.c.text)
    .where(_traffic.c.task == audited.c.task, _traffic.c.sample_id == audited.c.sample_id)
    .order_by(_traffic.c.occurred_at, _traffic.c.event_id)
    .limit(1)
    .correlate(audited)
    .scalar_subquery(),
)
