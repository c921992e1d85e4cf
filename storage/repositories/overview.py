"""What the console shows of traffic and labels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from flywheel.contracts.labels import AUTOMATIC
from storage.features.history import SourceHistory
from storage.repositories import gone
from storage.repositories.settled import clocks, traffic
from storage.repositories.settled import settled as labelled
from storage.repositories.settled_totals import BILLION, totals, values
from storage.repositories.settled_totals import sources as by_source
from storage.repositories.traffic_totals import buckets, samples
from storage.repositories.traffic_totals import totals as requests
from storage.work import Work


class Overview:
    """Reads only; cheap enough to be asked every second."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def ticks(self) -> dict[str, int]:
        """Task → the tick of its label clock, which moves on with all that is kept of it."""
        rows = self._work.rows(select(clocks.c.task, clocks.c.ticks))
        return {row.task: row.ticks for row in rows}

    def traffic_counts(self, task: str) -> dict[str, Any]:
        """``requests``, ``failed``, ``releases`` (release → requests), ``first`` and ``last``."""
        rows = self._work.rows(select(requests).where(requests.c.task == task))
        return {
            "requests": sum(row.requests for row in rows),
            "failed": sum(row.failed for row in rows),
            "releases": {row.release: row.requests for row in rows if row.release},
            "first": min((row.first for row in rows), default=None),
            "last": max((row.last for row in rows), default=None),
        }

    def traffic_series(
        self, task: str, bucket_seconds: int, limit: int
    ) -> list[tuple[int, int, int, int, int]]:
        """(start in epoch seconds, requests, champion, challenger, errors) of the newest ``limit``
        buckets up to the last request, oldest first; a bucket without requests is left out.

        ``bucket_seconds`` is one of ``contracts.traffic_series.SIZES``."""
        mine = (buckets.c.task == task, buckets.c.size == bucket_seconds)
        newest = self._work.row(select(func.max(buckets.c.start)).where(*mine))
        if newest is None or newest[0] is None:
            return []
        since = newest[0] - bucket_seconds * (limit - 1)
        rows = self._work.rows(
            select(buckets).where(*mine, buckets.c.start >= since).order_by(buckets.c.start)
        )
        return [
            (row.start, row.requests, row.requests - row.challenger, row.challenger, row.failed)
            for row in rows
        ]

    def coverage(self, task: str) -> dict[str, int]:
        """Samples from the gateway by whose label settled them: ``auto`` (rules too), ``expert``,
        ``other``, ``none``."""
        row = self._work.row(select(samples.c.samples).where(samples.c.task == task))
        counts = {"auto": 0, "expert": 0, "other": 0}
        for settled in self._work.rows(
            select(totals.c.source, totals.c.samples).where(
                totals.c.task == task, totals.c.through_gateway.is_(True)
            )
        ):
            kind = "auto" if settled.source in AUTOMATIC else settled.source
            counts[kind if kind in counts else "other"] += settled.samples
        # Of samples that are gone it stays known whose label had settled them.
        for left in gone.kept(self._work, totals, task):
            if left["through_gateway"]:
                kind = "auto" if left["source"] in AUTOMATIC else left["source"]
                counts[kind if kind in counts else "other"] += left["samples"]
        return counts | {"none": (row.samples if row else 0) - sum(counts.values())}

    def settled_values(self, task: str) -> dict[str, tuple[int, int]]:
        """Settled value → samples that somebody gave it to train on, and held-out samples; those
        labelled automatically are neither."""
        found: dict[str, tuple[int, int]] = {}
        for row in self._work.rows(
            select(values).where(values.c.task == task, values.c.samples > 0)
        ):
            train, holdout = found.get(row.value, (0, 0))
            if row.split == "holdout":
                holdout += row.samples
            elif row.source not in AUTOMATIC:
                train += row.samples
            found[row.value] = train, holdout
        return found

    def first_automatic(self, task: str) -> datetime | None:
        """When the oldest of the automatic labels that are settled was given; None without any."""
        row = self._work.row(
            select(labelled.c.occurred_at)
            .where(labelled.c.task == task, labelled.c.source.in_(sorted(AUTOMATIC)))
            .order_by(labelled.c.occurred_at)
            .limit(1)
        )
        return None if row is None else row.occurred_at

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
        known = select(by_source).where(by_source.c.task == task)
        if sources is not None:
            known = known.where(by_source.c.source.in_(sources))
        rows = self._work.rows(known.order_by(by_source.c.source))
        return [
            SourceHistory(
                source=row.source,
                samples=row.samples,
                mean_confidence=row.confidence / row.confidences / BILLION
                if row.confidences
                else 0.0,
                expert_labels=row.experts,
                corrections=row.corrections,
                latest=row.latest,
            )
            for row in rows
        ]

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
