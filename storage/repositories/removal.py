"""Removes rows for good: what they came to in totals is kept in the same transaction.

Whoever calls it has made sure that nobody adds rows of the same samples meanwhile (``hold``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Table, delete, select, tuple_

from flywheel.contracts.sample import Content, decode_content, images
from storage.repositories import (
    gone,
    judged,
    rollout_totals,
    settled_totals,
    traffic_totals,
    waiting_totals,
)
from storage.repositories.review_states import add as add_to_queue
from storage.repositories.review_states import answers, claims, outcomes, tasks, withdrawals, words
from storage.repositories.review_states import totals as queue_totals
from storage.repositories.settled import clocks, labels, settled, traffic
from storage.tables.columns import table_of
from storage.tables.retention import ClosedRow, LeftImageRow
from storage.work import Values, Work

_images = table_of(LeftImageRow)
_gate = table_of(ClosedRow)
_PAIRS = 400

_BY_SAMPLE = {traffic.name, labels.name}  # an index leads there by the sample alone


def hold(work: Work, task: str, sample_ids: Iterable[str]) -> None:
    """Let nobody else write rows of these samples until the transaction ends: milliseconds.

    In the order in which those who write them lock: what agents ``enter`` by, the row of a queued
    sample, tables, and then the clock of labels, which moves on: what is removed is no longer kept
    of the task.
    """
    if not work.sqlite:
        work.hold([_gate.name])
        for part in work.chunks(sorted(sample_ids)):
            mine = (tasks.c.task == task, tasks.c.sample_id.in_(part))
            queue = select(tasks.c.sample_id).where(*mine).order_by(tasks.c.sample_id)
            work.rows(queue.with_for_update())
        held = (traffic, labels, settled, judged.truths, judged.scores)
        work.hold([table.name for table in held])
    work.tick(clocks, task, work.reserve(clocks, task))


def enter(work: Work, tables: Sequence[str] = ()) -> None:
    """To be called by who takes events in, before it is asked which may enter, and before anything
    else: whoever removes rows (``hold``) then waits for what enters, and misses none of it.
    ``tables`` are those that are written to."""
    work.share([_gate.name, *tables])


def whole_samples(work: Work, task: str, sample_ids: Sequence[str]) -> Counter[str]:
    """All rows of these samples; table → how many went."""
    went: Counter[str] = Counter()
    for part in work.chunks(sample_ids):
        went += _labels(work, task, part)
        went["traffic"] += requests(work, task, _of(work, traffic, task, part))
        went["evidence_scores"] += scores(work, _of(work, judged.scores, task, part))
        went += queued(work, task, part)
        went += _judged(work, task, part)
    return +went


def requests(work: Work, task: str, rows: Sequence[Row[Any]]) -> int:
    """Rows of ``traffic``."""
    sent = _values(rows)
    for start in range(0, len(sent), _PAIRS):
        ids = [row["event_id"] for row in sent[start : start + _PAIRS]]
        work.run(delete(traffic).where(traffic.c.event_id.in_(ids)))
    served = [row for row in sent if row["origin"] == traffic_totals.GATEWAY]
    gone.keep(work, traffic_totals.totals, traffic_totals.by_release(task, served))
    gone.keep(work, traffic_totals.buckets, traffic_totals.by_bucket(work, task, served))
    left = _through_gateway(work, task, {row["sample_id"] for row in served})
    lost = {row["sample_id"] for row in served} - left
    if lost:
        gone.keep(work, traffic_totals.samples, [{"task": task, "samples": len(lost)}])
    blank = {"experts": 0, "corrections": 0}
    by_source = settled_totals.by_source(sent)
    gone.keep(
        work,
        settled_totals.sources,
        [{"task": task, "source": source} | blank | row for source, row in by_source.items()],
    )
    leave_images(work, sent)
    return len(sent)


def scores(work: Work, rows: Sequence[Row[Any]]) -> int:
    """Rows of ``evidence_scores``. What a running rollout has of them is forgotten in its windows,
    and goes on to count in its totals."""
    said = _values(rows)
    key = tuple_(*(judged.scores.c[name] for name in ("task", "sample_id", "release", "live")))
    keys = [(row["task"], row["sample_id"], row["release"], row["live"]) for row in said]
    for start in range(0, len(keys), _PAIRS):
        work.run(delete(judged.scores).where(key.in_(keys[start : start + _PAIRS])))
    rollout_totals.count(work, [], said)
    counted, spread = rollout_totals.by_step([(row, 1) for row in said])
    for table, values in (
        (rollout_totals.totals, counted),
        (rollout_totals.latencies, spread),
    ):
        gone.keep(work, table, values)
        work.increment(table, values, [column.name for column in table.primary_key])
    return len(said)


def queued(work: Work, task: str, sample_ids: Sequence[str]) -> Counter[str]:
    """What the experts' queue has of these samples."""
    rows = _of(work, tasks, task, sample_ids)
    went: Counter[str] = Counter()
    for table in (claims, answers, outcomes, withdrawals, words, tasks):
        went[table.name] += _delete(work, table, task, sample_ids)
    finished = Counter(row.state for row in rows if row.closed)
    gone.keep(
        work,
        queue_totals,
        [{"task": task, "state": state, "samples": n} for state, n in sorted(finished.items())],
    )
    # What was never finished is not to be done any more.
    unfinished = Counter(row.state for row in rows if not row.closed)
    add_to_queue(work, task, Counter({state: -n for state, n in unfinished.items()}))
    leave_images(work, _values(rows))
    return +went


def leave_images(work: Work, rows: Iterable[Values]) -> None:
    """Remember the images that these rows of inputs show: they may be nobody's now."""
    inputs = (row for row in rows if row["messages"] is not None)
    leave_images_of(work, (decode_content(row["text"], row["messages"]) for row in inputs))


def leave_images_of(work: Work, contents: Iterable[Content]) -> None:
    """Remember the images of these inputs."""
    shown = {image.sha256 for content in contents for image in images(content)}
    work.add(_images, [{"sha256": digest} for digest in sorted(shown)], ["sha256"])


def _labels(work: Work, task: str, sample_ids: Sequence[str]) -> Counter[str]:
    """Labels and what follows from them. Labels that are settled count as long as they are there;
    how their source did, and whose label covered how much traffic, stays known."""
    held = _values(_of(work, settled, task, sample_ids))
    said = _of(work, labels, task, sample_ids)
    sent = _of(work, traffic, task, sample_ids)
    came = {row.sample_id for row in sent}
    waited = {word.sample_id for word in said if word.settles} - came
    waiting_totals.add(work, task, -len(waited))
    went = Counter(
        {
            table.name: _delete(work, table, task, sample_ids)
            for table in (settled, labels, judged.truths)
        }
    )
    if held:
        settled_totals.count_settled(work, task, [], held)
        seq = work.tick(clocks, task, work.reserve(clocks, task))
        work.run(clocks.update().where(clocks.c.task == task).values(settled_at=seq))
        gone.keep(work, settled_totals.totals, [_covered(task, row) for row in held])
    changes = _of_sources(task, held, said, sent)
    gone.keep(work, settled_totals.sources, changes)
    work.increment(settled_totals.sources, changes, ["task", "source"], most=("latest",))
    return +went


def _covered(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": task,
        "source": row["source"],
        "split": row["split"] or "",
        "through_gateway": row["through_gateway"],
        "samples": 1,
    }


def _of_sources(
    task: str,
    held: Sequence[Mapping[str, Any]],
    said: Sequence[Row[Any]],
    sent: Sequence[Row[Any]],
) -> list[dict[str, Any]]:
    """What experts' labels said of their sources, and when these were last heard of."""
    senders: dict[str, set[str]] = {}
    for row in sent:
        senders.setdefault(row.sample_id, set()).add(row.source)
    changes: dict[str, dict[str, Any]] = {}
    for word in said:
        for source in senders.get(word.sample_id, ()) if word.settles else ():
            change = changes.setdefault(source, _no_source(task, source, word.occurred_at))
            change["latest"] = max(change["latest"], word.occurred_at)
    for one in held:
        if one["source"] == "expert":
            source = one["sent_by"]
            change = changes.setdefault(source, _no_source(task, source, one["occurred_at"]))
            change["experts"] += 1
            change["corrections"] += one["answered"] not in (None, one["value"])
    return [changes[source] for source in sorted(changes)]


def _no_source(task: str, source: str, latest: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(("samples", "confidences", "experts", "corrections"), 0)
    return {"task": task, "source": source, **numbers, "confidence": 0, "latest": latest}


def _judged(work: Work, task: str, sample_ids: Sequence[str]) -> Counter[str]:
    """What was judged of these samples. Whoever reads on from a ``seq`` is told that they are gone:
    rows without anything stay for as long as somebody may read (``forget_judged``)."""
    blank: dict[str, Any] = {"output": "", "scores": {}, "label": None, "confidence": None}
    went: Counter[str] = Counter()
    seq = 0
    for table in (judged.judged, judged.audited):
        mine = (table.c.task == task, table.c.sample_id.in_(sample_ids))
        if work.row(select(table.c.sample_id).where(*mine, table.c.gone.is_(False)).limit(1)):
            seq = seq or work.tick(judged.clocks, task)
            values = {"gone": True, "seq": seq} | (blank if table is judged.audited else {})
            went[table.name] += work.run(table.update().where(*mine).values(**values))
    return +went


def _values(rows: Iterable[Row[Any]]) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in rows]


def _through_gateway(work: Work, task: str, sample_ids: set[str]) -> set[str]:
    known: set[str] = set()
    for part in work.chunks(sorted(sample_ids)):
        rows = work.rows(
            select(traffic.c.task, traffic.c.sample_id).where(
                traffic.c.sample_id.in_(part), traffic.c.origin == traffic_totals.GATEWAY
            )
        )
        known.update(row.sample_id for row in rows if row.task == task)
    return known


def _of(work: Work, table: Table, task: str, sample_ids: Sequence[str]) -> list[Row[Any]]:
    wanted = select(table).where(table.c.sample_id.in_(sample_ids))
    if table.name in _BY_SAMPLE:
        # The task is no condition of the query: see ``repositories.settled``.
        return [row for row in work.rows(wanted) if row.task == task]
    return list(work.rows(wanted.where(table.c.task == task)))


def _delete(work: Work, table: Table, task: str, sample_ids: Sequence[str]) -> int:
    if table.name in _BY_SAMPLE:
        ids = [row.event_id for row in _of(work, table, task, sample_ids)]
        return sum(
            work.run(delete(table).where(table.c.event_id.in_(part))) for part in work.chunks(ids)
        )
    return work.run(delete(table).where(table.c.task == task, table.c.sample_id.in_(sample_ids)))


def forget_judged(work: Work, task: str, seq: int) -> int:
    """Take away what ``_judged`` left, of up to this tick: everybody has read on since."""
    went = 0
    for table in (judged.judged, judged.audited):
        known = select(judged.truths.c.sample_id).where(
            judged.truths.c.task == table.c.task, judged.truths.c.sample_id == table.c.sample_id
        )
        went += work.run(
            delete(table).where(
                table.c.task == task,
                table.c.gone.is_(True),
                table.c.seq <= seq,
                ~known.correlate(table).exists(),
            )
        )
    return went
