"""What a database holds: events kept as the agents keep them, rows by sample, totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from storage_events import START, TASK, at, shadow, traffic

from flywheel.contracts.events import (
    Event,
    LabelRecorded,
    ReviewRequested,
)
from flywheel.retention.config import RetentionSettings
from flywheel.retention.sweep import cutoffs, sweep
from flywheel.rollout.ports import Rollout
from storage.database import Database
from storage.repositories.gone import OF_KIND
from storage.repositories.settled_totals import new_labels, values
from storage.repositories.settled_totals import totals as settled_counts
from storage.repositories.waiting_totals import totals as waiting
from storage.tables import metadata

DAY = 86_400.0
NOW = START + timedelta(days=100)
ALL = RetentionSettings(traffic=30, automatic=60, labelled=0, evidence=30, review=30)
# Of labels that are there: they go with the labels.
OF_LABELS = ("settled_totals", "settled_values", "new_label_totals", "waiting_totals")
_COUNTED = [
    *(summed.table for kinds in OF_KIND.values() for summed in kinds),
    settled_counts,
    values,
    new_labels,
    waiting,
]


def swept(database: Database, settings: RetentionSettings = ALL, **more: Any) -> Counter[str]:
    """What retention removes of the task at ``NOW``."""
    return sweep(
        database.transaction,
        lambda: database.transaction(read_only=True),
        TASK,
        cutoffs(settings, NOW),
        **({"rest": lambda _: None} | more),
    )


def answered(sample: str, days: float, **other: Any) -> list[Event]:
    """A request in a rollout, answered by both arms."""
    of_arm = {"arm": "champion", "rollout_id": "rollout", "challenger_share": 0.1}
    return [
        traffic(sample, days * DAY, unit=f"user of {sample}", **of_arm, **other),
        shadow(sample, days * DAY + 1, challenger_share=0.1),
    ]


def keep(database: Database, events: Sequence[Event]) -> None:
    """What the agents do with events, without Kafka."""
    with database.transaction("agents") as tx:
        tx.label_intake.record(events)
        tx.evidence_intake.record(events)
        tx.intake.unheard([e for e in events if isinstance(e, LabelRecorded)])
        tx.intake.open([e for e in events if isinstance(e, ReviewRequested)])


def totals(database: Database, but: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Every table of totals; zeros count as nothing, and floating sums to nine digits."""
    found: dict[str, list[Any]] = {}
    with database.work(read_only=True) as work:
        for table in _COUNTED:
            numbers = [c.name for c in table.c if c.name not in table.primary_key]
            rows_ = [
                tuple(round(v, 9) if isinstance(v, float) else v for v in row)
                for row in work.rows(select(table))
                if any(isinstance(v := getattr(row, name), datetime) or v for name in numbers)
            ]
            if table.name not in but:
                found[table.name] = sorted(rows_, key=str)
    return found


def rows(database: Database, name: str) -> set[str]:
    """The samples that a table has rows of."""
    table = metadata().tables[name]
    with database.work(read_only=True) as work:
        return {row.sample_id for row in work.rows(select(table.c.sample_id))}


def begin_rollout(database: Database, *, ended: bool, rollout_id: str = "rollout") -> None:
    """A rollout of r2 against r1, that runs or has ended."""
    rollout = Rollout(
        rollout_id=rollout_id,
        task=TASK,
        champion="r1",
        challenger="r2",
        state="rolled_back" if ended else "canary",
        step=0,
        share=0.1,
        started_at=START,
        step_started_at=START,
        ended_at=at(60 * DAY) if ended else None,
        steps=(0.1,),
    )
    with database.transaction() as tx:
        tx.rollouts.save(rollout, None)
