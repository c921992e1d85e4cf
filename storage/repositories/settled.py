"""Which label of a sample counts, and the table that holds the answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, delete, or_, select, update

from flywheel.contracts.answers import same_text
from flywheel.contracts.events import Split
from flywheel.contracts.sample import Content, decode_content
from storage.repositories import waiting_totals
from storage.repositories.settled_totals import count_settled, date_labelled
from storage.tables.columns import table_of
from storage.tables.labels import LabelClockRow, LabelRow, SettledLabelRow, TrafficRow
from storage.work import Work

traffic = table_of(TrafficRow)
labels = table_of(LabelRow)
settled = table_of(SettledLabelRow)
clocks = table_of(LabelClockRow)

Rows = Mapping[str, Sequence[Row[Any]]]
input_columns = (traffic.c.text, traffic.c.messages)
_first_columns = (
    traffic.c.event_id,
    traffic.c.seq,
    traffic.c.task,
    traffic.c.sample_id,
    traffic.c.source,
    traffic.c.output,
    traffic.c.origin,
    traffic.c.occurred_at,
)


def winner(words: Iterable[Row[Any]]) -> Row[Any] | None:
    """The row of ``labels`` that counts, of all rows of one sample; None without any.

    Of each source the latest word counts, by time, then by event id; a withdrawn one does not. A
    word that repeats the one before it says nothing new: that one goes on to count. Of
    these the most trusted source wins; where it says that the sample can't be labelled, no label
    counts. The order in which rows came in plays no part.
    """
    latest: dict[str, Row[Any]] = {}
    for word in sorted((word for word in words if word.settles), key=_when):
        known = latest.get(word.source)
        if known is None or _says(word) != _says(known):
            latest[word.source] = word
    standing = [w for w in latest.values() if w.value is not None or w.unlabelable]
    best = min(standing, key=lambda word: word.rank, default=None)
    return None if best is None or best.value is None else best


def split_of(words: Iterable[Row[Any]]) -> Split | None:
    """A sample that any label put in the holdout stays there, whoever labels it again."""
    splits = {word.split for word in words if word.split is not None}
    return "holdout" if "holdout" in splits else next(iter(splits), None)


def first(events: Iterable[Row[Any]]) -> Row[Any]:
    """The row of ``traffic`` that gives a sample its input, of all of its rows."""
    return min(events, key=_when)


def input_of(row: Row[Any]) -> Content:
    """The input in a row that has ``input_columns``."""
    return decode_content(row.text, row.messages)


def by_sample(rows: Iterable[Row[Any]]) -> Rows:
    """Rows by their sample."""
    grouped: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        grouped[row.sample_id].append(row)
    return grouped


def resettle(work: Work, task: str, seq: int, sample_ids: Iterable[str]) -> None:
    """Work out again which labels of these samples count; ``seq`` is the present tick.

    The task's clock must be locked: it keeps others from adding rows for the same samples that
    would be invisible here.
    """
    changed = False
    for part in work.chunks(sample_ids):
        words = by_sample(_of_task(task, work.rows(_words(work, part))))
        if words:
            changed |= _resettle(work, task, seq, words)
    if changed:
        work.run(update(clocks).where(clocks.c.task == task).values(settled_at=seq))


def _resettle(work: Work, task: str, seq: int, words: Rows) -> bool:
    ids = list(words)
    known = work.rows(select(*_first_columns).where(work.among(traffic.c.sample_id, ids)))
    events = by_sample(_of_task(task, known))
    held = work.rows(
        select(settled).where(settled.c.task == task, work.among(settled.c.sample_id, ids))
    )
    present = {row.sample_id: row for row in held}
    date_labelled(work, task, words, events)
    waiting_totals.count(work, task, seq, words, events)
    rows, gone, replaced = [], [], []
    for sample_id, said in words.items():
        word = winner(said) if sample_id in events else None
        before = present.get(sample_id)
        if word is not None:
            row = _settled_values(word, split_of(said), events[sample_id], seq)
            if before is None or any(
                getattr(before, name) != row[name] for name in row if name != "seq"
            ):
                rows.append(row)
                replaced += [before] if before is not None else []
        elif before is not None:
            gone.append(sample_id)
            replaced.append(before)
    work.put(settled, rows, ["task", "sample_id"])
    if gone:
        work.run(delete(settled).where(settled.c.task == task, settled.c.sample_id.in_(gone)))
    count_settled(work, task, rows, [dict(row._mapping) for row in replaced])
    return bool(rows or gone)


def _settled_values(
    word: Row[Any], split: Split | None, events: Sequence[Row[Any]], seq: int
) -> dict[str, Any]:
    event = first(events)
    return {
        "task": word.task,
        "sample_id": word.sample_id,
        "event_id": word.event_id,
        "traffic_id": event.event_id,
        "seq": seq,
        "value": word.value,
        "source": word.source,
        "annotators": word.annotators,
        "split": split,
        "inclusion_probability": word.inclusion_probability,
        "audit": word.audit,
        "sent_by": event.source,
        "answered": _answered(event.output, word.value),
        "through_gateway": any(one.origin == "gateway" for one in events),
        "occurred_at": word.occurred_at,
    }


def _answered(output: str | None, value: str) -> str | None:
    # Counted as corrected where it differs: a free text that says the same must not.
    return value if output is not None and same_text(output, value) else output


def _words(work: Work, sample_ids: Sequence[str]) -> Any:
    return select(labels).where(
        work.among(labels.c.sample_id, sample_ids),
        or_(labels.c.settles.is_(True), labels.c.split.is_not(None)),
    )


def _of_task(task: str, rows: Iterable[Row[Any]]) -> list[Row[Any]]:
    # Not a condition of the query: a database that has no statistics yet would rather walk
    # through the whole task than look up a thousand samples.
    return [row for row in rows if row.task == task]


def _says(word: Row[Any]) -> tuple[Any, ...]:
    return (
        word.value,
        word.unlabelable,
        word.annotators,
        word.agreement,
        word.audit,
        word.inclusion_probability,
    )


def _when(row: Row[Any]) -> tuple[Any, str]:
    return row.occurred_at, row.event_id
