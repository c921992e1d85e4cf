"""Samples and labels: what the label agent writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Table, select, update

from flywheel.contracts.events import Event, LabelRecorded, LabelSettled, TrafficRecorded
from flywheel.contracts.ids import utc_now
from flywheel.contracts.labels import SETTLES_ALONE, rank
from flywheel.contracts.sample import Content, encode_messages
from flywheel.retention.ports import OF_LABELS
from storage.repositories import removal, traffic_totals
from storage.repositories.admission import admitted
from storage.repositories.settled import (
    clocks,
    input_columns,
    input_of,
    labels,
    resettle,
    traffic,
)
from storage.repositories.settled_totals import count_sent
from storage.work import Work, arrived

E = TypeVar("E", bound=Event)


class SqlLabelIntake:
    """``datasets.ports.LabelIntake``. Rows are only added, each with the tick of its batch.

    A batch is written before its tasks' clocks are locked, with ticks that were given out without
    a lock; what follows from it is worked out after, when whatever others wrote of the same samples
    is either visible, or will see this. Several workers so write labels of one task at once, and
    wait for each other only for what has to be counted in one place.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def inputs(self, samples: Collection[tuple[str, str]]) -> dict[tuple[str, str], Content]:
        known: dict[tuple[str, str], Content] = {}
        for part in self._work.chunks(sample for _, sample in samples):
            first_comes_first = (
                select(traffic.c.task, traffic.c.sample_id, *input_columns)
                .where(self._work.among(traffic.c.sample_id, part))
                .order_by(traffic.c.occurred_at, traffic.c.event_id)
            )
            for row in self._work.rows(first_comes_first):
                place = (row.task, row.sample_id)
                if place not in known:
                    known[place] = input_of(row)
        return {one: known[one] for one in samples if one in known}

    def record(self, events: Sequence[Event]) -> None:
        removal.enter(self._work, [traffic.name, labels.name])
        tasks = _by_task(self._unknown(admitted(self._work, events, OF_LABELS)))
        given = {task: self._work.reserve(clocks, task) for task, _ in tasks}
        now = utc_now()
        sent = {
            task: [
                _traffic_values(e, given[task], now)
                for e in batch
                if isinstance(e, TrafficRecorded)
            ]
            for task, batch in tasks
        }
        words = [_words_of(e, given[e.task], now) for _, batch in tasks for e in batch]
        said = [row for row in words if row is not None]
        rows = _in_order(row for own in sent.values() for row in own)
        if self._work.add(traffic, rows, ["event_id"]) < len(rows):
            sent = self._added(sent, given)
        self._work.add(labels, _in_order(said), ["event_id"])
        decisive: dict[str, list[str]] = defaultdict(list)
        for row in said:
            # What settles nothing by itself changes nothing that is settled.
            if row["settles"] or row["split"] is not None:
                decisive[row["task"]].append(row["sample_id"])
        for task, batch in tasks:
            self._follow(task, batch, sent[task], decisive[task], given[task])

    def record_samples(self, events: Sequence[TrafficRecorded]) -> None:
        self.record(events)

    def record_labels(self, events: Sequence[LabelRecorded]) -> None:
        self.record(events)

    def record_settlements(self, events: Sequence[LabelSettled]) -> None:
        self.record(events)

    def _follow(
        self,
        task: str,
        batch: Sequence[Event],
        sent: Sequence[dict[str, Any]],
        decisive: Sequence[str],
        given: int,
    ) -> None:
        """Lock a task's clock, and count and settle what a batch that is written comes to."""
        tick = self._work.tick(clocks, task, given)
        if tick != given:
            self._stamp(batch, given, tick)
        of_traffic = [row["sample_id"] for row in sent]
        if sent:
            known = self._through_gateway(task, of_traffic, tick)
            traffic_totals.count(self._work, task, sent, known)
            count_sent(self._work, task, sent)
        resettle(self._work, task, tick, [*of_traffic, *decisive])

    def _stamp(self, batch: Sequence[Event], given: int, tick: int) -> None:
        """A batch that got its tick later came first: this one takes one that is later still."""
        for part in self._work.chunks(event.event_id for event in batch):
            for table in (traffic, labels):
                mine = table.c.event_id.in_(part) & (table.c.seq == given)
                self._work.run(update(table).where(mine).values(seq=tick))

    def _unknown(self, events: Sequence[Event]) -> list[Event]:
        """Those of ``events`` that this keeps and has not kept yet, each once: what comes again
        ticks no clock and is not counted anew."""
        sent = self._new(traffic, [e for e in events if isinstance(e, TrafficRecorded)])
        said = self._new(labels, [e for e in events if isinstance(e, LabelRecorded | LabelSettled)])
        return [*sent, *said]

    def _new(self, table: Table, events: Sequence[Event]) -> list[Event]:
        new = {event.event_id: event for event in reversed(events)}
        for part in self._work.chunks(list(new)):
            there = select(table.c.event_id).where(self._work.among(table.c.event_id, part))
            for row in self._work.rows(there):
                new.pop(row.event_id, None)
        return list(reversed(new.values()))

    def _added(
        self, sent: Mapping[str, Sequence[dict[str, Any]]], given: Mapping[str, int]
    ) -> dict[str, list[dict[str, Any]]]:
        """Those rows of ``traffic`` that this transaction added. Another worker had the same events
        at the same time and was first with the others: it counts them, under a tick of its own."""
        own: dict[str, list[dict[str, Any]]] = {}
        for task, rows in sent.items():
            there: set[str] = set()
            for part in self._work.chunks(row["event_id"] for row in rows):
                mine = self._work.among(traffic.c.event_id, part)
                known = select(traffic.c.event_id, traffic.c.seq).where(mine)
                there.update(
                    row.event_id for row in self._work.rows(known) if row.seq == given[task]
                )
            own[task] = [row for row in rows if row["event_id"] in there]
        return own

    def _through_gateway(self, task: str, sample_ids: Sequence[str], tick: int) -> set[str]:
        """Samples that came through the gateway before this tick."""
        known: set[str] = set()
        for part in self._work.chunks(sample_ids):
            rows = self._work.rows(
                select(traffic.c.task, traffic.c.sample_id).where(
                    self._work.among(traffic.c.sample_id, part),
                    traffic.c.origin == traffic_totals.GATEWAY,
                    traffic.c.seq != tick,
                )
            )
            known.update(row.sample_id for row in rows if row.task == task)
        return known


def _by_task(events: Iterable[E]) -> list[tuple[str, list[E]]]:
    """Events by task, in one order everywhere: transactions lock clocks in it, without deadlock."""
    tasks: dict[str, list[E]] = defaultdict(list)
    for event in events:
        tasks[event.task].append(event)
    return sorted(tasks.items())


def _in_order(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """In one order everywhere, so that two batches of the same events can't lock each other out."""
    return sorted(rows, key=lambda row: str(row["event_id"]))


def _words_of(event: Event, seq: int, now: datetime) -> dict[str, Any] | None:
    if isinstance(event, LabelRecorded):
        return _label_values(event, seq, now)
    return _settlement_values(event, seq, now) if isinstance(event, LabelSettled) else None


def _traffic_values(event: TrafficRecorded, seq: int, now: datetime) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "seq": seq,
        "task": event.task,
        "sample_id": event.sample_id,
        "text": event.text,
        "messages": encode_messages(event.content),
        "origin": event.origin,
        "source": event.source,
        "unit": event.sender,
        "release": event.release,
        "arm": event.arm,
        "rollout_id": event.rollout_id,
        "output": event.output,
        "confidence": event.confidence,
        "latency_ms": event.latency_ms,
        "status": min(max(event.status, 0), 999),
        "error": event.error,
        "cached": event.cached,
        "occurred_at": arrived(event.occurred_at, now),
    }


def _label_values(event: LabelRecorded, seq: int, now: datetime) -> dict[str, Any]:
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
        "unlabelable": False,
        "occurred_at": arrived(event.occurred_at, now),
    }


def _settlement_values(event: LabelSettled, seq: int, now: datetime) -> dict[str, Any]:
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
        "unlabelable": event.value is None and event.unlabelable,
        "occurred_at": arrived(event.occurred_at, now),
    }
