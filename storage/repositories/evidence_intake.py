"""Evidence as it comes in: what releases answered, and what was true; the evidence agent's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select

from flywheel.contracts.events import (
    Event,
    LabelRecorded,
    LabelSettled,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.ids import utc_now
from flywheel.contracts.labels import rank
from flywheel.errors import StorageError
from flywheel.retention.ports import OF_EVIDENCE
from flywheel.rollout.ports import is_answer, is_truth
from flywheel.statistics.buckets import latency_bucket
from storage.repositories import removal
from storage.repositories.admission import admitted
from storage.repositories.judged import judge
from storage.repositories.rollout_totals import count
from storage.tables.columns import table_of
from storage.tables.evidence import ScoreRow, TruthRow
from storage.work import Work, arrived, later

_scores = table_of(ScoreRow)
_truths = table_of(TruthRow)


class SqlEvidenceIntake:
    """``rollout.ports.EvidenceIntake``. Of repeated words on one thing, time decides."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def record(self, events: Sequence[Event]) -> None:
        """Keep what each answer says of its release and arm (one row a sample, release), and the
        true label of each sample.

        A request that was repeated under the same sample id counts as it went at first: a
        failure is not undone by trying again. A failure while no model server answered anything
        says nothing of the arm, and an answer that nobody waited for is given again to who repeats
        the request: neither is kept.
        """
        removal.enter(self._work, [_truths.name, _scores.name])
        events = admitted(self._work, events, OF_EVIDENCE)
        now = utc_now()
        rows = [
            _live_values(e, now) if isinstance(e, TrafficRecorded) else _shadow_values(e, now)
            for e in events
            if is_answer(e)
        ]
        labels = [_truth_values(e, now) for e in events if is_truth(e)]
        labels.sort(key=lambda row: (row["task"], row["sample_id"], row["source"]))
        self._work.put(_truths, labels, ["task", "sample_id", "source"], later(_truths))
        answered = self._put_scores(rows)
        for task in sorted({row["task"] for row in (*labels, *answered)}):
            labelled = {row["sample_id"] for row in labels if row["task"] == task}
            scored = {row["sample_id"] for row in answered if row["task"] == task}
            judge(self._work, task, labelled, labelled=True)
            judge(self._work, task, scored - labelled, labelled=False)

    def _put_scores(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep the earliest answer of each kind, and count it; returns those that were written."""
        first: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in rows:
            key = _key(row)
            known = first.setdefault(key, row)
            if known is not row and _when(row) < _when(known):
                first[key] = row
        stored = {_key(row): row for row in self._stored(first.values())}
        # In one order everywhere, so that two batches at once can't lock each other out.
        new = [first[key] for key in sorted(first.keys() - stored.keys())]
        earlier_ones = [
            first[key] for key in sorted(first.keys() & stored.keys())
            if _when(first[key]) < _when(stored[key])
        ]  # fmt: skip
        if self._work.add(_scores, new, _KEY) < len(new):
            raise StorageError("another worker has just kept the same answers")
        self._work.put(_scores, earlier_ones, _KEY)
        written = new + earlier_ones
        count(self._work, written, [stored[_key(row)] for row in earlier_ones])
        return written

    def _stored(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The stored answers of the same samples. On PostgreSQL they stay as they are until the
        transaction ends."""
        samples: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            samples[row["task"]].append(row["sample_id"])
        found: list[Mapping[str, Any]] = []
        for task in sorted(samples):
            for part in self._work.chunks(sorted(samples[task])):
                known = select(_scores).where(
                    _scores.c.task == task, self._work.among(_scores.c.sample_id, part)
                )
                if not self._work.sqlite:
                    known = known.with_for_update()
                found += [dict(row._mapping) for row in self._work.rows(known)]
        return found


_KEY = ["task", "sample_id", "release", "live"]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["sample_id"], row["release"], row["live"]


def _when(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["occurred_at"], row["event_id"]


def _live_values(event: TrafficRecorded, now: datetime) -> dict[str, Any]:
    return {
        "task": event.task,
        "sample_id": event.sample_id,
        "release": event.release,
        "live": True,
        "event_id": event.event_id,
        "arm": event.arm,
        "rollout_id": event.rollout_id,
        "challenger_share": event.challenger_share,
        "output": event.output,
        "confidence": event.confidence,
        "scores": event.scores,
        "unit": event.unit or event.sample_id,
        "latency_ms": event.latency_ms,
        "latency_bucket": latency_bucket(event.latency_ms),
        "failed": event.error is not None or event.status >= 500,
        "cached": event.cached,
        "occurred_at": arrived(event.occurred_at, now),
    }


def _shadow_values(event: ShadowRecorded, now: datetime) -> dict[str, Any]:
    return {
        "task": event.task,
        "sample_id": event.sample_id,
        "release": event.release,
        "live": False,
        "event_id": event.event_id,
        "arm": event.arm,
        "rollout_id": event.rollout_id,
        "challenger_share": event.challenger_share,
        "output": event.output,
        "confidence": event.confidence,
        "scores": event.scores,
        "unit": event.sample_id,
        "latency_ms": event.latency_ms,
        "latency_bucket": latency_bucket(event.latency_ms),
        "failed": event.error is not None,
        "cached": False,
        "occurred_at": arrived(event.occurred_at, now),
    }


def _truth_values(event: LabelRecorded | LabelSettled, now: datetime) -> dict[str, Any]:
    source = "expert" if isinstance(event, LabelSettled) else event.source
    return {
        "task": event.task,
        "sample_id": event.sample_id,
        "source": source,
        "rank": rank("expert" if isinstance(event, LabelSettled) else event.source),
        "event_id": event.event_id,
        "value": event.value,
        "unlabelable": isinstance(event, LabelSettled)
        and event.value is None
        and event.unlabelable,
        "audit": event.audit,
        "inclusion_probability": event.inclusion_probability,
        "occurred_at": arrived(event.occurred_at, now),
    }
