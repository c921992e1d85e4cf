"""What settled labels and their sources come to, kept as labels settle: the label agent's.

``rebuild`` makes it from the rows of ``traffic``, ``labels`` and ``settled_labels``, and says the
same however they came in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, and_, case, delete, func, insert, literal, select

from flywheel.contracts.bounds import LONGEST_NAME
from storage.repositories.versions import newest_watermark
from storage.tables.columns import table_of
from storage.tables.labels import (
    LabelRow,
    NewLabelTotalRow,
    SettledLabelRow,
    SettledTotalRow,
    SettledValueRow,
    SourceTotalRow,
    TrafficRow,
)
from storage.work import Values, Work

totals = table_of(SettledTotalRow)
values = table_of(SettledValueRow)
new_labels = table_of(NewLabelTotalRow)
sources = table_of(SourceTotalRow)
_settled = table_of(SettledLabelRow)
_traffic = table_of(TrafficRow)
_labels = table_of(LabelRow)

BILLION = 1_000_000_000
_TOTAL_KEY = ["task", "source", "split", "through_gateway"]
_VALUE_KEY = ["task", "value", "source", "split"]
_NEW_KEY = ["task", "watermark", "source", "split"]
_SOURCE_KEY = ["task", "source"]


def count_settled(
    work: Work, task: str, added: Sequence[Values], removed: Sequence[Values]
) -> None:
    """Count labels that are settled now, and those that they took the place of."""
    signed = [(row, 1) for row in added] + [(row, -1) for row in removed]
    samples: Counter[tuple[Any, ...]] = Counter()
    of_value: Counter[tuple[Any, ...]] = Counter()
    experts: Counter[str] = Counter()
    corrections: Counter[str] = Counter()
    for row, sign in signed:
        source, split = row["source"], row["split"] or ""
        samples[source, split, row["through_gateway"]] += sign
        if len(row["value"]) <= LONGEST_NAME:
            of_value[row["value"], source, split] += sign
        if source == "expert":
            experts[row["sent_by"]] += sign
            corrections[row["sent_by"]] += sign * (row["answered"] not in (None, row["value"]))
    for table, key, counts in ((totals, _TOTAL_KEY, samples), (values, _VALUE_KEY, of_value)):
        changes = [
            dict(zip(key, (task, *place), strict=True), samples=n)
            for place, n in sorted(counts.items())
            if n
        ]
        work.increment(table, changes, key)
    _increment_sources(
        work,
        task,
        {
            source: {"experts": experts[source], "corrections": corrections[source]}
            for source in experts
        },
    )
    _count_new(work, task, signed)


def count_sent(work: Work, task: str, rows: Sequence[Values]) -> None:
    """Count rows of ``traffic`` that were added, by who sent them."""
    _increment_sources(work, task, by_source(rows))


def by_source(rows: Sequence[Values]) -> dict[str, dict[str, Any]]:
    """Source → what rows of ``traffic`` add to its row of ``source_totals``."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        source = found.setdefault(row["source"], {"samples": 0, "confidences": 0, "confidence": 0})
        source["samples"] += 1
        source["latest"] = max(source.get("latest", row["occurred_at"]), row["occurred_at"])
        if row["confidence"] is not None:
            source["confidences"] += 1
            source["confidence"] += int(row["confidence"] * BILLION + 0.5)
    return found


def date_labelled(
    work: Work,
    task: str,
    words: Mapping[str, Sequence[Row[Any]]],
    events: Mapping[str, Sequence[Row[Any]]],
) -> None:
    """Whoever sent a sample that was labelled has been heard of since."""
    latest: dict[str, Any] = {}
    for sample_id, sent in events.items():
        said = [word.occurred_at for word in words.get(sample_id, ()) if word.settles]
        for event in sent if said else ():
            latest[event.source] = max(*said, latest.get(event.source, said[0]))
    _increment_sources(work, task, {source: {"latest": at} for source, at in latest.items()})


def _increment_sources(work: Work, task: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    blank = dict.fromkeys(("samples", "confidences", "confidence", "experts", "corrections"), 0)
    dated: list[Values] = []
    undated: list[Values] = []
    for source, change in sorted(found.items()):
        row: Values = {"task": task, "source": source} | blank | dict(change)
        (dated if "latest" in change else undated).append(row)
    work.increment(sources, dated, _SOURCE_KEY, most=("latest",))
    for known in undated:  # whose sample was sent, so that the source is there
        work.run(
            sources.update()
            .where(sources.c.task == task, sources.c.source == known["source"])
            .values(
                experts=sources.c.experts + known["experts"],
                corrections=sources.c.corrections + known["corrections"],
            )
        )


def _count_new(work: Work, task: str, signed: Sequence[tuple[Values, int]]) -> None:
    watermark = newest_watermark(work, task)
    if watermark is None:
        return
    row = work.row(select(new_labels.c.watermark).where(new_labels.c.task == task).limit(1))
    if row is None or row.watermark != watermark:
        _count_new_again(work, task, watermark)
        return
    changed: Counter[tuple[str, str]] = Counter()
    for one, sign in signed:
        if one["seq"] > int(watermark):
            changed[one["source"], one["split"] or ""] += sign
    work.increment(
        new_labels,
        [
            dict(zip(_NEW_KEY, (task, watermark, *key), strict=True), samples=n)
            for key, n in sorted(changed.items())
            if n
        ],
        _NEW_KEY,
    )


def _count_new_again(work: Work, task: str, watermark: str) -> None:
    work.run(delete(new_labels).where(new_labels.c.task == task))
    # So that whoever looks for the count finds it, though there be nothing to count.
    nothing = {"task": task, "watermark": watermark, "source": "", "split": "", "samples": 0}
    work.add(new_labels, [nothing], _NEW_KEY)
    split = func.coalesce(_settled.c.split, "")
    counted = (
        select(_settled.c.task, literal(watermark), _settled.c.source, split, func.count())
        .where(_settled.c.task == task, _settled.c.seq > int(watermark))
        .group_by(_settled.c.task, _settled.c.source, split)
    )
    work.run(insert(new_labels).from_select([c.name for c in new_labels.c], counted))


def rebuild(work: Work, task: str) -> None:
    """Count a task's settled labels and its sources anew."""
    for table in (totals, values, new_labels, sources):
        work.run(delete(table).where(table.c.task == task))
    split = func.coalesce(_settled.c.split, "")
    shared = (_settled.c.source, split)
    for table, key in (
        (totals, (_settled.c.task, *shared, _settled.c.through_gateway)),
        (values, (_settled.c.task, _settled.c.value, *shared)),
    ):
        counted = select(*key, func.count()).where(_settled.c.task == task).group_by(*key)
        if table is values:
            counted = counted.where(func.length(_settled.c.value) <= LONGEST_NAME)
        work.run(insert(table).from_select([c.name for c in table.c], counted))
    _rebuild_sources(work, task)
    watermark = newest_watermark(work, task)
    if watermark is not None:
        _count_new_again(work, task, watermark)


def _rebuild_sources(work: Work, task: str) -> None:
    billionths = work.whole(_traffic.c.confidence * BILLION + 0.5)
    sent = work.rows(
        select(
            _traffic.c.source,
            func.count().label("samples"),
            func.count(_traffic.c.confidence).label("confidences"),
            func.coalesce(func.sum(billionths), 0).label("confidence"),
            func.max(_traffic.c.occurred_at).label("latest"),
        )
        .where(_traffic.c.task == task)
        .group_by(_traffic.c.source)
    )
    expert = _settled.c.source == "expert"
    wrong = and_(expert, _settled.c.value != _settled.c.answered)
    judged = work.rows(
        select(
            _settled.c.sent_by,
            func.sum(case((expert, 1), else_=0)).label("experts"),
            func.sum(case((wrong, 1), else_=0)).label("corrections"),
        )
        .where(_settled.c.task == task)
        .group_by(_settled.c.sent_by)
    )
    said = work.rows(
        select(_traffic.c.source, func.max(_labels.c.occurred_at).label("latest"))
        .join(
            _labels,
            and_(_labels.c.task == _traffic.c.task, _labels.c.sample_id == _traffic.c.sample_id),
        )
        .where(_labels.c.task == task, _labels.c.settles.is_(True))
        .group_by(_traffic.c.source)
    )
    corrected = {row.sent_by: row for row in judged}
    labelled = {row.source: row.latest for row in said}
    _increment_sources(
        work,
        task,
        {
            row.source: {
                "samples": row.samples,
                "confidences": row.confidences,
                "confidence": int(row.confidence),
                "experts": corrected[row.source].experts if row.source in corrected else 0,
                "corrections": corrected[row.source].corrections if row.source in corrected else 0,
                "latest": max(row.latest, labelled.get(row.source, row.latest)),
            }
            for row in sent
        },
    )
