"""What `flywheel doctor` counts: every request and every label once, by id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, case, func, select

from storage.repositories.waiting_totals import WAITS
from storage.repositories.waiting_totals import totals as waiting_totals
from storage.tables.columns import table_of
from storage.tables.labels import LabelRow, SampleTotalRow, TrafficRow
from storage.tables.review import ReviewOutcomeRow
from storage.work import Work

traffic = table_of(TrafficRow)
labels = table_of(LabelRow)
outcomes = table_of(ReviewOutcomeRow)
samples = table_of(SampleTotalRow)
FAILED = 400


class SqlBalance:
    """Counts that must come out even once every agent has caught up."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def recorded(self) -> int:
        """Distinct samples that came through the gateway, each counted once a task."""
        row = self._work.row(select(func.sum(samples.c.samples).label("samples")))
        return int(row.samples or 0) if row is not None else 0

    def doubled_answers(self) -> list[str]:
        """Samples that one task answered under more than one event id."""
        rows = self._work.rows(
            select(traffic.c.task, traffic.c.sample_id)
            .where(traffic.c.origin == "gateway", traffic.c.status < FAILED)
            .group_by(traffic.c.task, traffic.c.sample_id)
            .having(func.count() > 1)
        )
        return [_named(row) for row in rows]

    def unrecorded(self, sample_ids: Sequence[str]) -> list[str]:
        """Those of ``sample_ids`` that no traffic row knows."""
        known: set[str] = set()
        for chunk in self._work.chunks(sample_ids):
            rows = self._work.rows(
                select(traffic.c.sample_id).where(traffic.c.sample_id.in_(chunk)).distinct()
            )
            known.update(row.sample_id for row in rows)
        return [sample_id for sample_id in dict.fromkeys(sample_ids) if sample_id not in known]

    def labels_without_sample(self) -> list[str]:
        """Samples (task/id) that were labelled and never recorded: their labels wait for them,
        and train nothing meanwhile."""
        rows = self._work.rows(
            select(labels.c.task, labels.c.sample_id)
            .where(WAITS)
            .distinct()
            .order_by(labels.c.task, labels.c.sample_id)
        )
        return [f"{row.task}/{row.sample_id}" for row in rows]

    def waiting(self) -> dict[str, int]:
        """Task → how many those are, as it is kept: without a look at the labels."""
        rows = self._work.rows(select(waiting_totals).where(waiting_totals.c.samples != 0))
        return {row.task: row.samples for row in rows}

    def unkept_settlements(self) -> list[str]:
        """Samples that experts settled at the console and whose settlement no label row holds."""
        rows = self._work.rows(
            select(outcomes.c.task, outcomes.c.sample_id)
            .select_from(outcomes.outerjoin(labels, labels.c.event_id == outcomes.c.event_id))
            .where(labels.c.event_id.is_(None))
        )
        return [_named(row) for row in rows]

    def doubled_settlements(self) -> list[str]:
        """Samples that experts settled more often than they took it back, by more than once."""
        step = func.sum(case((labels.c.value.is_(None) & ~labels.c.unlabelable, -1), else_=1))
        rows = self._work.rows(
            select(labels.c.task, labels.c.sample_id)
            .where(labels.c.settles, labels.c.source == "expert")
            .group_by(labels.c.task, labels.c.sample_id)
            .having(step > 1)
        )
        return [_named(row) for row in rows]


def _named(row: Row[Any]) -> str:
    return f"{row.sample_id} of {row.task}"
