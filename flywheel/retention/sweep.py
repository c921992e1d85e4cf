"""One pass over what is old: archived if wanted, then removed in parts that take milliseconds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Protocol

from flywheel.retention.config import RetentionSettings
from flywheel.retention.ports import Cursor, Due, Expiry, Kind, Row, Walk

KINDS: Mapping[Walk, tuple[Kind, ...]] = {
    "samples": ("traffic", "automatic", "labelled"),
    "evidence": ("evidence",),
    "review": ("review",),
    "waiting": ("automatic", "labelled"),
}
# Removed in one transaction: so much that the database's write lock is held for some 20 ms.
AT_ONCE = 200
# After each transaction nothing is removed for so many times as long: whoever else writes to the
# database finds it free three quarters of the time.
REST = 3.0
# Rows of one file of the archive, about.
ARCHIVED_AT_ONCE = 20_000


class ExpiringTransaction(Protocol):
    """What one transaction of retention offers."""

    @property
    def expiry(self) -> Expiry:
        """What is old."""
        ...


Transactions = Callable[[], AbstractContextManager[ExpiringTransaction]]


class Archive(Protocol):
    """Where rows go before they are removed."""

    def write(self, task: str, rows: Mapping[str, Sequence[Row]]) -> None:
        """Keep rows by table; returns once all of them are kept."""
        ...


def cutoffs(settings: RetentionSettings, now: datetime) -> dict[Kind, datetime]:
    """Kind → what came before is kept no longer. Days are whole, in UTC, so that nothing is kept
    for less than the settings say."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days: dict[Kind, int] = {
        "traffic": settings.traffic,
        "automatic": settings.automatic,
        "labelled": settings.labelled,
        "evidence": settings.evidence,
        "review": settings.review,
    }
    return {kind: today - timedelta(days=count) for kind, count in days.items() if count}


def plan(reading: Transactions, task: str, before: Mapping[Kind, datetime]) -> Counter[Kind]:
    """How much of each kind would go now: requests, answers of releases, queued samples."""
    counted: Counter[Kind] = Counter()
    for walk in KINDS:
        for due in _walked(reading, walk, task, before):
            counted.update(one.kind for one in due)
    return counted


def sweep(
    transactions: Transactions,
    reading: Transactions,
    task: str,
    before: Mapping[Kind, datetime],
    archive: Archive | None = None,
    stopping: Callable[[], bool] = lambda: False,
    rest: Callable[[float], object] = time.sleep,
) -> Counter[str]:
    """Remove what is too old of a task; table → rows that went.

    May be ended at any moment and begun again. What was archived and not removed by then is
    archived once more, and read once.
    """
    gone: Counter[str] = Counter()

    def remove(walk: Walk, due: Sequence[Due]) -> None:
        if archive is not None and due:
            with reading() as tx:
                rows = tx.expiry.rows(walk, task, due)
            archive.write(task, rows)
        for start in range(0, len(due), AT_ONCE):
            began = time.monotonic()
            with transactions() as tx:
                gone.update(tx.expiry.remove(walk, task, before, due[start : start + AT_ONCE]))
            rest(REST * (time.monotonic() - began))

    for walk, kinds in KINDS.items():
        closing = [kind for kind in kinds if kind in before]
        if not closing:
            continue
        with transactions() as tx:
            for kind in closing:
                tx.expiry.close(task, kind, before[kind])
            if walk == "evidence":
                tx.expiry.forget_units(task, before["evidence"])
        waiting: list[Due] = []
        for due in _walked(reading, walk, task, before):
            waiting += due
            if archive is None or len(waiting) >= ARCHIVED_AT_ONCE:
                remove(walk, waiting)
                waiting = []
            if stopping():
                return gone
        remove(walk, waiting)
    return gone


def _walked(
    reading: Transactions, walk: Walk, task: str, before: Mapping[Kind, datetime]
) -> Iterator[Sequence[Due]]:
    """What is due, page by page, each read in a transaction of its own."""
    wanted = {kind: before[kind] for kind in KINDS[walk] if kind in before}
    after: Cursor | None = None
    while wanted:
        with reading() as tx:
            page = tx.expiry.page(walk, task, wanted, after)
        if page.due:
            yield page.due
        if page.after is None:
            return
        after = page.after
