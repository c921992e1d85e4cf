"""How many labelled samples never came, kept as labels and samples come in: the label agent's.

``rebuild`` makes it from the rows of ``labels`` and ``traffic``, and says the same however they
came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, delete, exists, func, insert, select

from storage.tables.columns import table_of
from storage.tables.labels import LabelRow, TrafficRow, WaitingTotalRow
from storage.work import Work

totals = table_of(WaitingTotalRow)
_labels = table_of(LabelRow)
_traffic = table_of(TrafficRow)

Rows = Mapping[str, Sequence[Row[Any]]]
_recorded = select(_traffic.c.event_id).where(
    _traffic.c.sample_id == _labels.c.sample_id, _traffic.c.task == _labels.c.task
)
# Of ``labels``: whose sample was never recorded.
WAITS = _labels.c.settles.is_(True) & ~exists(_recorded)


def count(work: Work, task: str, seq: int, words: Rows, events: Rows) -> None:
    """Count samples of which rows were added under the tick ``seq``; ``words`` and ``events`` are
    all of their rows, by sample."""
    more = 0
    for sample_id, said in words.items():
        sent = events.get(sample_id, ())
        if any(row.seq != seq for row in sent):
            continue  # it came before, and waits for nothing
        waited = any(word.settles and word.seq != seq for word in said)
        waits = not sent and any(word.settles for word in said)
        more += waits - waited
    add(work, task, more)


def add(work: Work, task: str, samples: int) -> None:
    """So many more, or fewer, wait."""
    if samples:
        work.increment(totals, [{"task": task, "samples": samples}], ["task"])


def of(work: Work, task: str) -> int:
    """How many of a task wait, as it is kept."""
    row = work.row(select(totals.c.samples).where(totals.c.task == task))
    return 0 if row is None else int(row.samples)


def rebuild(work: Work, task: str) -> None:
    """Count a task's anew."""
    work.run(delete(totals).where(totals.c.task == task))
    counted = (
        select(_labels.c.task, func.count(_labels.c.sample_id.distinct()))
        .where(_labels.c.task == task, WAITS)
        .group_by(_labels.c.task)
    )
    work.run(insert(totals).from_select(["task", "samples"], counted))
