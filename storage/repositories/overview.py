"""What the console shows of traffic and labels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, case, func, select

from flywheel.contracts.labels import AUTOMATIC
from storage.features.history import SourceHistory
from storage.repositories.settled import settled, traffic
from storage.work import Work

_failed = case((traffic.c.error.is_not(None) | (traffic.c.status >= 500), 1), else_=0)


class Overview:
    """Reads only; cheap enough to be asked every second."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def traffic_counts(self, task: str) -> dict[str, Any]:
        """``requests``, ``failed``, ``releases`` (release → requests), ``first`` and ``last``."""
        rows = self._work.rows(
            select(
                traffic.c.release,
                func.count().label("requests"),
                func.sum(_failed).label("failed"),
                func.min(traffic.c.occurred_at).label("first"),
                func.max(traffic.c.occurred_at).label("last"),
            )
            .where(traffic.c.task == task, traffic.c.origin == "gateway")
            .group_by(traffic.c.release)
        )
        return {
            "requests": sum(row.requests for row in rows),
            "failed": sum(row.failed for row in rows),
            "releases": {row.release: row.requests for row in rows if row.release is not None},
            "first": min((row.first for row in rows), default=None),
            "last": max((row.last for row in rows), default=None),
        }

    def traffic_series(
        self, task: str, bucket_seconds: int, limit: int
    ) -> list[tuple[int, int, int, int, int]]:
        """(start in epoch seconds, requests, champion, challenger, errors) of the newest ``limit``
        buckets up to the last request, oldest first; a bucket without requests is left out."""
        served = [traffic.c.task == task, traffic.c.origin == "gateway"]
        newest = self._work.row(select(func.max(traffic.c.occurred_at)).where(*served))
        if newest is None or newest[0] is None:
            return []
        since = newest[0] - timedelta(seconds=bucket_seconds * limit)
        seconds = self._work.epoch(traffic.c.occurred_at)
        bucket = (seconds - seconds % bucket_seconds).label("bucket")
        challenger = func.sum(case((traffic.c.arm == "challenger", 1), else_=0))
        rows = self._work.rows(
            select(bucket, func.count(), challenger, func.sum(_failed))
            .where(*served, traffic.c.occurred_at > since)
            .group_by(bucket)
            .order_by(bucket.desc())
            .limit(limit)
        )
        return [(ts, n, n - c, c, errors) for ts, n, c, errors in reversed(rows)]

    def coverage(self, task: str) -> dict[str, int]:
        """Samples from the gateway by whose label settled them: ``auto`` (rules too), ``expert``,
        ``other``, ``none``."""
        samples = self._work.row(
            select(func.count(traffic.c.sample_id.distinct()).label("n")).where(
                traffic.c.task == task, traffic.c.origin == "gateway"
            )
        )
        kind = case(
            (settled.c.source == "expert", "expert"),
            (settled.c.source.in_(sorted(AUTOMATIC)), "auto"),
            else_="other",
        ).label("kind")
        rows = self._work.rows(
            select(kind, func.count().label("n"))
            .where(settled.c.task == task, settled.c.through_gateway.is_(True))
            .group_by(kind)
        )
        counts = {"auto": 0, "expert": 0, "other": 0} | {row.kind: row.n for row in rows}
        none = (samples.n if samples else 0) - sum(counts.values())
        return counts | {"none": none}

    def settled_values(self, task: str) -> dict[str, tuple[int, int]]:
        """Settled value → samples that somebody gave it to train on, and held-out samples; those
        labelled automatically are neither."""
        held = settled.c.split == "holdout"
        given = ~settled.c.source.in_(sorted(AUTOMATIC)) & func.coalesce(~held, True)
        rows = self._work.rows(
            select(
                settled.c.value,
                func.sum(case((given, 1), else_=0)).label("train"),
                func.sum(case((held, 1), else_=0)).label("holdout"),
            )
            .where(settled.c.task == task)
            .group_by(settled.c.value)
        )
        return {row.value: (row.train, row.holdout) for row in rows}

    def texts(self, task: str, sample_ids: Sequence[str]) -> dict[str, str]:
        rows = self._work.rows(
            select(traffic.c.sample_id, traffic.c.text).where(
                traffic.c.task == task, traffic.c.sample_id.in_(sample_ids)
            )
        )
        return {row.sample_id: row.text for row in rows}

    def source_history(
        self, task: str, sources: Sequence[str] | None = None
    ) -> list[SourceHistory]:
        """What is known of each source (None: of all): the rows of the feature view."""
        sent, labelled = [traffic.c.task == task], [settled.c.task == task]
        if sources is not None:
            sent.append(traffic.c.source.in_(sources))
            labelled.append(settled.c.sent_by.in_(sources))
        expert = settled.c.source == "expert"
        wrong = expert & (settled.c.value != settled.c.answered)
        judged = self._work.rows(
            select(
                settled.c.sent_by,
                func.sum(case((expert, 1), else_=0)).label("experts"),
                func.sum(case((wrong, 1), else_=0)).label("corrections"),
                func.max(settled.c.occurred_at).label("latest"),
            )
            .where(*labelled)
            .group_by(settled.c.sent_by)
        )
        known = {row.sent_by: row for row in judged}
        requests = self._work.rows(
            select(
                traffic.c.source,
                func.count().label("samples"),
                func.avg(traffic.c.confidence).label("confidence"),
                func.max(traffic.c.occurred_at).label("latest"),
            )
            .where(*sent)
            .group_by(traffic.c.source)
        )
        histories = [_history(row, known.get(row.source)) for row in requests]
        return sorted(histories, key=lambda history: history.source)

    def senders(self, task: str, sample_ids: Sequence[str]) -> dict[str, list[str]]:
        """Sample id → the sources that sent it to a task, in alphabetical order."""
        senders: dict[str, set[str]] = {}
        for part in self._work.chunks(sample_ids):
            rows = self._work.rows(
                select(traffic.c.task, traffic.c.sample_id, traffic.c.source)
                .where(traffic.c.sample_id.in_(part))
                .distinct()
            )
            for row in rows:
                if row.task == task:
                    senders.setdefault(row.sample_id, set()).add(row.source)
        return {sample_id: sorted(sources) for sample_id, sources in senders.items()}


def _history(requests: Row[Any], judged: Row[Any] | None) -> SourceHistory:
    latest = [requests.latest] + ([judged.latest] if judged is not None else [])
    return SourceHistory(
        source=requests.source,
        samples=requests.samples,
        mean_confidence=float(requests.confidence or 0.0),
        expert_labels=judged.experts if judged is not None else 0,
        corrections=judged.corrections if judged is not None else 0,
        latest=max(latest),
    )
