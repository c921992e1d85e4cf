"""What is kept beside the rows so that nobody reads them all: made anew where it is missing.

Each kind of total has a version. A database that was written before a kind was kept, or by code
that counted otherwise, is counted when it is next opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import select, union

from storage.repositories import (
    gone,
    judged,
    review_states,
    rollout_totals,
    settled_totals,
    traffic_totals,
    waiting_totals,
)
from storage.tables.columns import table_of
from storage.tables.evidence import ScoreRow, TruthRow
from storage.tables.labels import LabelRow, TrafficRow
from storage.tables.review import ReviewTaskRow
from storage.tables.totals import KeptTotalRow
from storage.work import Work

_kept = table_of(KeptTotalRow)
_traffic = table_of(TrafficRow)
_labels = table_of(LabelRow)
_queued = table_of(ReviewTaskRow)
_scores = table_of(ScoreRow)
_truths = table_of(TruthRow)


class Progress(Protocol):
    """Whoever shows how far counting has come."""

    def __call__(self, kind: str, done: int, parts: int, /) -> None:
        """So many of the parts of a kind are counted."""
        ...


@dataclass(frozen=True, slots=True)
class Total:
    """One kind: what it is counted from, part by part, each in a transaction of its own. What rows
    that are gone came to is added (``repositories.gone``)."""

    name: str
    version: int
    tables: tuple[str, ...]
    parts: Callable[[Work], list[str]]
    rebuild: Callable[[Work, str], None]


def _tasks_of_traffic(work: Work) -> list[str]:
    found = union(select(_traffic.c.task), select(_labels.c.task))
    return sorted(row[0] for row in work.rows(found))


def _rollouts(work: Work) -> list[str]:
    found = select(_scores.c.rollout_id).where(_scores.c.rollout_id.is_not(None)).distinct()
    return sorted(row[0] for row in work.rows(found))


def _tasks_of_review(work: Work) -> list[str]:
    return sorted(row[0] for row in work.rows(select(_queued.c.task).distinct()))


def _tasks_of_evidence(work: Work) -> list[str]:
    return sorted(row[0] for row in work.rows(select(_truths.c.task).distinct()))


TOTALS: Sequence[Total] = (
    Total("traffic", 1, ("traffic",), _tasks_of_traffic, traffic_totals.rebuild),
    Total(
        "labels",
        1,
        ("traffic", "labels", "settled_labels"),
        _tasks_of_traffic,
        settled_totals.rebuild,
    ),
    Total("waiting labels", 1, ("traffic", "labels"), _tasks_of_traffic, waiting_totals.rebuild),
    Total("rollouts", 1, ("evidence_scores", "rollouts"), _rollouts, rollout_totals.rebuild),
    Total(
        "reviews",
        1,
        ("review_tasks", "review_answers", "review_outcomes", "review_withdrawals"),
        _tasks_of_review,
        review_states.rebuild,
    ),
    Total("audits", 1, ("evidence_scores", "evidence_truths"), _tasks_of_evidence, judged.rebuild),
)

Works = Callable[[], AbstractContextManager[Work]]


def missing(work: Work) -> list[Total]:
    """The kinds that this database does not keep as they are counted now."""
    known = {row.name: row.version for row in work.rows(select(_kept))}
    return [total for total in TOTALS if known.get(total.name) != total.version]


def rebuild(
    works: Works, wanted: Sequence[Total] = TOTALS, progress: Progress | None = None
) -> None:
    """Count anew, while agents may go on: what they write waits for the part that it belongs to."""
    for total in wanted:
        with works() as work:
            parts = sorted({*total.parts(work), *gone.parts(work, total.name)})
        for part in _shown(parts, total.name, progress):
            with works() as work:
                work.hold(total.tables)
                total.rebuild(work, part)
                gone.restore(work, total.name, part)
        with works() as work:
            row = {"name": total.name, "version": total.version}
            work.put(_kept, [row], ["name"])


def _shown(parts: Sequence[str], name: str, progress: Progress | None) -> Iterator[str]:
    for done, part in enumerate(parts):
        if progress is not None:
            progress(name, done, len(parts))
        yield part
    if progress is not None:
        progress(name, len(parts), len(parts))
