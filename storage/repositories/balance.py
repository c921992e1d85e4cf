"""What `flywheel doctor` counts: every request and every label once, by id."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import case, func, select

from storage.tables.columns import table_of
from storage.tables.labels import LabelRow, TrafficRow
from storage.tables.review import ReviewOutcomeRow
from storage.work import Work

traffic = table_of(TrafficRow)
labels = table_of(LabelRow)
outcomes = table_of(ReviewOutcomeRow)
FAILED = 400


class SqlBalance:
    """Counts that must come out even once every agent has caught up."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def recorded(self) -> int:
        """Distinct samples that came through the gateway."""
        row = self._work.row(
            select(func.count(traffic.c.sample_id.distinct()).label("samples")).where(
                traffic.c.origin == "gateway"
            )
        )
        return int(row.samples) if row is not None else 0

    def doubled_answers(self) -> list[str]:
        """Samples that were answered under more than one event id."""
        found = self._work.rows(
            select(traffic.c.sample_id)
            .where(traffic.c.origin == "gateway", traffic.c.status < FAILED)
            .group_by(traffic.c.sample_id)
            .having(func.count() > 1)
        )
        return [row.sample_id for row in found]

    def unrecorded(self, sample_ids: Sequence[str]) -> list[str]:
        """Those of ``sample_ids`` that no traffic row knows."""
        known: set[str] = set()
        for chunk in self._work.chunks(sample_ids):
            found = self._work.rows(
                select(traffic.c.sample_id).where(traffic.c.sample_id.in_(chunk)).distinct()
            )
            known.update(row.sample_id for row in found)
        return [sample_id for sample_id in dict.fromkeys(sample_ids) if sample_id not in known]

    def unkept_settlements(self) -> list[str]:
        """Samples that experts settled at the console and whose settlement no label row holds."""
        found = self._work.rows(
            select(outcomes.c.sample_id)
            .select_from(outcomes.outerjoin(labels, labels.c.event_id == outcomes.c.event_id))
            .where(labels.c.event_id.is_(None))
        )
        return [row.sample_id for row in found]

    def doubled_settlements(self) -> list[str]:
        """Samples that experts settled more often than they took it back, by more than once."""
        step = func.sum(case((labels.c.value.is_(None), -1), else_=1))
        found = self._work.rows(
            select(labels.c.sample_id)
            .where(labels.c.settles, labels.c.source == "expert")
            .group_by(labels.c.sample_id)
            .having(step > 1)
        )
        return [row.sample_id for row in found]
