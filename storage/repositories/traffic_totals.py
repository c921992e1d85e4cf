"""What traffic comes to, kept as it comes in: the label agent's.

``rebuild`` makes it from the rows of ``traffic``, and says the same however they came in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import and_, case, delete, func, insert, literal, select

from flywheel.contracts.traffic_series import KEPT, SIZES, start_of
from storage.repositories.settled import traffic
from storage.tables.columns import table_of
from storage.tables.labels import SampleTotalRow, TrafficBucketRow, TrafficTotalRow
from storage.work import Values, Work

totals = table_of(TrafficTotalRow)
buckets = table_of(TrafficBucketRow)
samples = table_of(SampleTotalRow)

GATEWAY = "gateway"
_failed = case((traffic.c.error.is_not(None) | (traffic.c.status >= 500), 1), else_=0)
_served = traffic.c.origin == GATEWAY


def count(work: Work, task: str, rows: Sequence[Values], known_samples: set[str]) -> None:
    """Count rows of ``traffic`` that were added, each once; ``known_samples`` came through the
    gateway before."""
    served = [row for row in rows if row["origin"] == GATEWAY]
    if not served:
        return
    work.increment(
        totals, by_release(task, served), ["task", "release"], least=("first",), most=("last",)
    )
    work.increment(buckets, by_bucket(work, task, served), ["task", "size", "start"])
    forget_old(work, task)
    new = {row["sample_id"] for row in served} - known_samples
    if new:
        work.increment(samples, [{"task": task, "samples": len(new)}], ["task"])


def rebuild(work: Work, task: str) -> None:
    """Count a task's traffic anew."""
    for table in (totals, buckets, samples):
        work.run(delete(table).where(table.c.task == task))
    mine = and_(traffic.c.task == task, _served)
    release = func.coalesce(traffic.c.release, "")
    by_release = (
        select(
            traffic.c.task,
            release,
            func.count(),
            func.sum(_failed),
            func.min(traffic.c.occurred_at),
            func.max(traffic.c.occurred_at),
        )
        .where(mine)
        .group_by(traffic.c.task, release)
    )
    work.run(insert(totals).from_select([c.name for c in totals.c], by_release))
    distinct = select(traffic.c.task, func.count(traffic.c.sample_id.distinct()))
    counted = distinct.where(mine).group_by(traffic.c.task)
    work.run(insert(samples).from_select([c.name for c in samples.c], counted))
    newest = work.row(select(func.max(traffic.c.occurred_at)).where(mine))
    if newest is None or newest[0] is None:
        return
    challenger = case((traffic.c.arm == "challenger", 1), else_=0)
    seconds = work.epoch(traffic.c.occurred_at)
    for size in SIZES:
        start = seconds - seconds % size
        series = (
            select(
                traffic.c.task,
                literal(size),
                start,
                func.count(),
                func.sum(challenger),
                func.sum(_failed),
            )
            .where(mine, traffic.c.occurred_at >= _moment(_oldest(newest[0].timestamp(), size)))
            .group_by(traffic.c.task, start)
        )
        work.run(insert(buckets).from_select([c.name for c in buckets.c], series))


def by_release(task: str, rows: Sequence[Values]) -> list[dict[str, Any]]:
    """Rows of ``traffic`` that came through the gateway, as rows of ``traffic_totals``."""
    of_release: dict[str, list[Values]] = {}
    for row in rows:
        of_release.setdefault(row["release"] or "", []).append(row)
    return [
        {
            "task": task,
            "release": release,
            "requests": len(own),
            "failed": sum(map(_has_failed, own)),
            "first": min(row["occurred_at"] for row in own),
            "last": max(row["occurred_at"] for row in own),
        }
        for release, own in sorted(of_release.items())
    ]


def by_bucket(work: Work, task: str, rows: Sequence[Values]) -> list[dict[str, Any]]:
    """Rows of ``traffic`` that came through the gateway, as rows of ``traffic_buckets``: of each
    size those that are kept."""
    seconds: dict[int, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts = seconds[start_of(row["occurred_at"].timestamp(), 1)]
        counts["requests"] += 1
        counts["challenger"] += row["arm"] == "challenger"
        counts["failed"] += _has_failed(row)
    newest, last = _newest(work, task), max(seconds, default=0)
    kept = {size: _oldest(max(newest.get(size, 0), last), size) for size in SIZES}
    found: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for second, counts in seconds.items():
        for size in SIZES:
            if (start := start_of(second, size)) >= kept[size]:
                found[size, start].update(counts)
    return [
        {
            "task": task,
            "size": size,
            "start": start,
            "requests": counts["requests"],
            "challenger": counts["challenger"],
            "failed": counts["failed"],
        }
        for (size, start), counts in sorted(found.items())
    ]


def forget_old(work: Work, task: str) -> None:
    """Of each size keep the newest buckets alone."""
    for size, newest in _newest(work, task).items():
        work.run(
            delete(buckets).where(
                buckets.c.task == task,
                buckets.c.size == size,
                buckets.c.start < _oldest(newest, size),
            )
        )


def _newest(work: Work, task: str) -> dict[int, int]:
    rows = work.rows(
        select(buckets.c.size, func.max(buckets.c.start).label("start"))
        .where(buckets.c.task == task)
        .group_by(buckets.c.size)
    )
    return {row.size: row.start for row in rows}


def _oldest(newest: float, size: int) -> int:
    """The start of the oldest bucket of a size that is kept."""
    return max(0, start_of(newest, size) - (KEPT - 1) * size)


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _has_failed(row: Values) -> bool:
    return row["error"] is not None or row["status"] >= 500
