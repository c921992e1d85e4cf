"""Samples and labels: written by the label agent, read by retraining and the dataset build."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Row, case, func, select

from flywheel.contracts.events import Event, LabelRecorded, LabelSettled, TrafficRecorded
from flywheel.contracts.label import SETTLES_ALONE, rank
from flywheel.contracts.stores import LabelCounts, LabelledSample
from storage.repositories.settled import first_traffic, labels, settled_labels, traffic
from storage.tables.columns import table_of
from storage.tables.labels import LabelClockRow
from storage.work import Work

E = TypeVar("E", bound=Event)

_clocks = table_of(LabelClockRow)
AUTOMATIC = ("auto", "rule")


class SqlLabelIntake:
    """``datasets.ports.LabelIntake``. Rows are only added, each with the tick of its batch."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def record_samples(self, events: Sequence[TrafficRecorded]) -> None:
        """Keep the samples."""
        for task, batch in _by_task(events):
            seq = self._work.tick(_clocks, task)
            self._work.add(traffic, [_traffic_values(e, seq) for e in batch], ["event_id"])

    def record_labels(self, events: Sequence[LabelRecorded]) -> None:
        """Keep every label; one from a source in ``SETTLES_ALONE`` settles its sample at once."""
        for task, batch in _by_task(events):
            seq = self._work.tick(_clocks, task)
            self._work.add(labels, [_label_values(e, seq) for e in batch], ["event_id"])

    def record_settlements(self, events: Sequence[LabelSettled]) -> None:
        """Keep what experts agreed; the latest settlement of a sample counts, None withdraws."""
        for task, batch in _by_task(events):
            seq = self._work.tick(_clocks, task)
            self._work.add(labels, [_settlement_values(e, seq) for e in batch], ["event_id"])


class SqlLabels:
    """``contracts.stores.LabelStore``.

    A watermark is a tick of the task's clock, not an event id: an event made earlier can arrive
    later (another machine's clock, a slow partition, a replay) and would slip under an id that
    was already used as an upper end. Ticks are given on arrival, commit in their order, and rows
    are never changed, so what lies under a watermark is fixed for ever. That holds for the text
    too: a label whose sample was not there yet enters with the tick of the sample.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def watermark(self, task: str) -> str | None:
        """The tick of the latest change to a settled label of this task, or None."""
        both = traffic.c.sample_id == labels.c.sample_id
        tick = case((traffic.c.seq > labels.c.seq, traffic.c.seq), else_=labels.c.seq)
        found = self._work.row(
            select(func.max(tick))
            .select_from(labels.join(traffic, both))
            .where(labels.c.task == task, traffic.c.task == task, labels.c.settles.is_(True))
        )
        return None if found is None or found[0] is None else _watermark(int(found[0]))

    def settled(self, task: str, watermark: str) -> list[LabelledSample]:
        """One settled label per sample, as they were at ``watermark``, ordered by sample id."""
        tick = _tick(watermark)
        settled = settled_labels(task, tick)
        texts = first_traffic(task, settled, tick)
        found = self._work.rows(
            select(settled, texts.c.text).select_from(
                settled.join(texts, texts.c.sample_id == settled.c.sample_id)
            )
        )
        # Sorted here: databases order text by their own collation.
        return sorted(map(labelled_sample, found), key=lambda sample: sample.sample_id)

    def counts(self, task: str, after: str | None = None) -> LabelCounts:
        """Labels settled now, of those that changed after an earlier watermark (None: all)."""
        settled = settled_labels(task)
        texts = first_traffic(task, settled)
        where = []
        if after is not None:
            changed = case((texts.c.known > settled.c.seq, texts.c.known), else_=settled.c.seq)
            where.append(changed > _tick(after))
        held_out = func.coalesce(settled.c.split, "") == "holdout"
        kind = case(
            (held_out, "holdout"),
            (settled.c.source == "expert", "expert"),
            (settled.c.source.in_(AUTOMATIC), "auto"),
            (settled.c.source == "seed", "seed"),
            else_="other",
        ).label("kind")
        found = self._work.rows(
            select(kind, func.count().label("n"), func.max(settled.c.occurred_at).label("latest"))
            .select_from(settled.join(texts, texts.c.sample_id == settled.c.sample_id))
            .where(*where)
            .group_by(kind)
        )
        latest = max((row.latest for row in found), default=None)
        return LabelCounts(**{row.kind: row.n for row in found}, latest=latest)


def labelled_sample(row: Row[Any]) -> LabelledSample:
    """A row of ``settled_labels`` with its text."""
    return LabelledSample(
        sample_id=row.sample_id,
        text=row.text,
        label=row.value,
        source=row.source,
        annotators=tuple(row.annotators),
        split=row.split,
        inclusion_probability=row.inclusion_probability,
        audit=row.audit,
        settled_at=row.occurred_at,
        event_id=row.event_id,
    )


def _by_task(events: Iterable[E]) -> list[tuple[str, list[E]]]:
    """By task, in one order everywhere: transactions lock clocks in it and can't deadlock."""
    tasks: dict[str, list[E]] = defaultdict(list)
    for event in events:
        tasks[event.task].append(event)
    return sorted(tasks.items())


def _watermark(tick: int) -> str:
    return f"{tick:012d}"


def _tick(watermark: str) -> int:
    if not watermark.isdecimal():
        raise ValueError(f"{watermark!r} is not a watermark: they are made by LabelStore.watermark")
    return int(watermark)


def _traffic_values(event: TrafficRecorded, seq: int) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "seq": seq,
        "task": event.task,
        "sample_id": event.sample_id,
        "text": event.text,
        "origin": event.origin,
        "source": event.source,
        "unit": event.unit,
        "release": event.release,
        "arm": event.arm,
        "rollout_id": event.rollout_id,
        "output": event.output,
        "confidence": event.confidence,
        "latency_ms": event.latency_ms,
        "status": min(max(event.status, 0), 999),
        "error": event.error,
        "cached": event.cached,
        "occurred_at": event.occurred_at,
    }


def _label_values(event: LabelRecorded, seq: int) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "seq": seq,
        "task": event.task,
        "sample_id": event.sample_id,
        "value": event.value,
        "source": event.source,
        "rank": rank(event.source),
        "settles": event.source in SETTLES_ALONE,
        "annotators": [event.annotator],
        "agreement": 1.0,
        "inclusion_probability": event.inclusion_probability,
        "audit": event.audit,
        "confidence": event.confidence,
        "release": event.release,
        "reason": event.reason,
        "split": event.split,
        "occurred_at": event.occurred_at,
    }


def _settlement_values(event: LabelSettled, seq: int) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "seq": seq,
        "task": event.task,
        "sample_id": event.sample_id,
        "value": event.value,
        "source": "expert",
        "rank": rank("expert"),
        "settles": True,
        "annotators": list(event.annotators),
        "agreement": event.agreement,
        "inclusion_probability": event.inclusion_probability,
        "audit": event.audit,
        "confidence": None,
        "release": None,
        "reason": event.reason,
        "split": None,
        "occurred_at": event.occurred_at,
    }
