"""Samples and labels, as retraining and the dataset build read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, or_, select

from flywheel.contracts.events import Split
from flywheel.contracts.labels import AUTOMATIC
from flywheel.contracts.sample import Content
from flywheel.contracts.stores import LabelCounts, LabelledSample, SeedLabel
from storage.repositories.settled import (
    by_sample,
    clocks,
    first,
    input_columns,
    input_of,
    labels,
    settled,
    split_of,
    traffic,
    winner,
)
from storage.repositories.settled_totals import new_labels, totals
from storage.work import Work


class SqlLabels:
    """``contracts.stores.LabelStore``.

    A watermark is a tick of the task's clock, not an event id: an event made earlier can arrive
    later (another machine's clock, a slow partition, a replay) and would slip under an id that
    was already used as an upper end. Ticks are given on arrival and commit in their order, since a
    batch whose tick was overtaken takes a later one before it commits; rows that are committed are
    never changed. So what lies under a watermark is fixed for ever. That holds for the input
    too: a label whose sample was not there yet enters with the tick of the sample.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def watermark(self, task: str) -> str | None:
        """The tick of the latest change to a settled label of this task, or None."""
        row = self._work.row(select(clocks.c.settled_at).where(clocks.c.task == task))
        return None if row is None or row.settled_at is None else f"{row.settled_at:012d}"

    def settled(self, task: str, watermark: str) -> list[LabelledSample]:
        """One settled label per sample, as they were at ``watermark``, ordered by sample id.

        Worked out from the rows of that time, not from what is settled now.
        """
        tick = _tick(watermark)
        words = by_sample(
            self._work.rows(
                select(labels).where(
                    labels.c.task == task,
                    labels.c.seq <= tick,
                    or_(labels.c.settles.is_(True), labels.c.split.is_not(None)),
                )
            )
        )
        samples = []
        for part in self._work.chunks(sorted(words)):
            inputs = self._inputs(task, tick, part)
            for sample_id in part:
                word = winner(words[sample_id])
                if word is not None and sample_id in inputs:
                    split = split_of(words[sample_id])
                    samples.append(labelled_sample(word, inputs[sample_id], split))
        return samples

    def seed_labels(self, task: str, sample_ids: Sequence[str]) -> dict[str, SeedLabel]:
        seeds: dict[str, SeedLabel] = {}
        for part in self._work.chunks(sample_ids):
            rows = self._work.rows(select(labels).where(labels.c.sample_id.in_(part)))
            sent = self._work.rows(
                select(traffic.c.task, traffic.c.sample_id).where(traffic.c.sample_id.in_(part))
            )
            known = {row.sample_id for row in sent if row.task == task}
            for sample_id, words in by_sample(row for row in rows if row.task == task).items():
                word = winner(word for word in words if word.source == "seed")
                if word is not None and sample_id in known:
                    seeds[sample_id] = SeedLabel(label=word.value, split=split_of(words))
        return seeds

    def counts(self, task: str, after: str | None = None) -> LabelCounts:
        if after is not None and not self._counts_from(task, after):
            rows = self._work.rows(
                select(settled.c.source, settled.c.split, func.count().label("samples"))
                .where(settled.c.task == task, settled.c.seq > _tick(after))
                .group_by(settled.c.source, settled.c.split)
            )
        else:
            table = totals if after is None else new_labels
            rows = self._work.rows(
                select(table.c.source, table.c.split, table.c.samples).where(table.c.task == task)
            )
        counted: Counter[str] = Counter()
        for row in rows:
            counted[_kind(row.source, row.split)] += row.samples
        del counted[""]
        latest = self._latest(task, after) if counted.total() else None
        return LabelCounts(**counted, latest=latest)

    def _counts_from(self, task: str, watermark: str) -> bool:
        """Whether labels are counted from this watermark on."""
        row = self._work.row(
            select(new_labels.c.watermark)
            .where(new_labels.c.task == task, new_labels.c.watermark == watermark)
            .limit(1)
        )
        return row is not None

    def _latest(self, task: str, after: str | None) -> datetime | None:
        """When the latest of these labels was given: found from the newest of all backwards, and
        most often at once."""
        newest = select(settled.c.occurred_at).where(settled.c.task == task)
        if after is not None:
            newest = newest.where(settled.c.seq > _tick(after))
        row = self._work.row(newest.order_by(settled.c.occurred_at.desc()).limit(1))
        return None if row is None else row.occurred_at

    def _inputs(self, task: str, tick: int, sample_ids: list[str]) -> dict[str, Content]:
        sent = self._work.rows(
            select(
                traffic.c.event_id,
                traffic.c.task,
                traffic.c.sample_id,
                *input_columns,
                traffic.c.seq,
                traffic.c.occurred_at,
            ).where(traffic.c.sample_id.in_(sample_ids))
        )
        events = by_sample(row for row in sent if row.task == task and row.seq <= tick)
        return {sample_id: input_of(first(rows)) for sample_id, rows in events.items()}


def _kind(source: str, split: str | None) -> str:
    """As what ``LabelCounts`` counts a settled label; empty for none."""
    if split == "holdout":
        return "holdout"
    if source in AUTOMATIC:
        return "auto"
    return source if source in ("expert", "seed", "") else "other"


def labelled_sample(word: Row[Any], content: Content, split: Split | None) -> LabelledSample:
    """A sample with the row of ``labels`` or ``settled_labels`` that counts."""
    return LabelledSample(
        sample_id=word.sample_id,
        content=content,
        label=word.value,
        source=word.source,
        annotators=tuple(word.annotators),
        split=split,
        inclusion_probability=word.inclusion_probability,
        audit=word.audit,
        settled_at=word.occurred_at,
        event_id=word.event_id,
    )


def _tick(watermark: str) -> int:
    if not watermark.isdecimal():
        raise ValueError(f"{watermark!r} is not a watermark: they are made by LabelStore.watermark")
    return int(watermark)
