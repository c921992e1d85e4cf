"""Answers beside the truth that audits found: kept as labels and answers come in, the evidence
agent's.

An audited sample is one that was drawn uniformly and that experts labelled. What they were asked
because a model was unsure, and what users object to, is harder than the traffic is, and left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Table, or_, select, union

from flywheel.kinds.predictions import is_right
from storage.repositories.rollout_totals import ARMS
from storage.tables.columns import table_of
from storage.tables.evidence import (
    AuditedAnswerRow,
    EvidenceClockRow,
    JudgedSampleRow,
    ScoreRow,
    TruthRow,
)
from storage.work import Values, Work

scores = table_of(ScoreRow)
truths = table_of(TruthRow)
judged = table_of(JudgedSampleRow)
audited = table_of(AuditedAnswerRow)
clocks = table_of(EvidenceClockRow)

# Not withdrawn: a value, or that there can be none.
is_word = or_(truths.c.value.is_not(None), truths.c.unlabelable)
_KEYS = {"rollout_judged": "rollout_id", "release_audits": "release"}


def judge(work: Work, task: str, sample_ids: Iterable[str], *, labelled: bool) -> None:
    """Work out again what the answers to these samples are worth.

    ``labelled``: their labels may have changed, so what was judged before may not stand any more;
    without it only those that have a label are looked at.
    """
    changed: dict[str, list[Values]] = {"rollout_judged": [], "release_audits": []}
    for part in work.chunks(sample_ids):
        words = {
            row.sample_id: row
            for row in work.rows(
                select(truths).where(
                    truths.c.task == task,
                    work.among(truths.c.sample_id, part),
                    truths.c.source == "expert",
                    truths.c.audit.is_(True),
                    is_word,
                )
            )
        }
        looked_at = part if labelled else list(words)
        if not looked_at:
            continue
        answers: dict[str, list[Row[Any]]] = defaultdict(list)
        if words:
            for row in work.rows(_answers(work, task, list(words))):
                answers[row.sample_id].append(row)
        for table, rows in (
            (judged, _judged(words, answers)),
            (audited, _audited(words, answers)),
        ):
            stored = _stored(work, table, task, looked_at)
            changed[table.name] += _differing(table, rows, stored)
    if not any(changed.values()):
        return
    seq = work.tick(clocks, task)
    for table in (judged, audited):
        rows = [dict(row) | {"seq": seq} for row in changed[table.name]]
        work.put(table, rows, ["task", "sample_id", _KEYS[table.name]])


def rebuild(work: Work, task: str) -> None:
    """Judge a task's audited samples anew, and those that were."""
    found = select(truths.c.sample_id).where(truths.c.task == task, truths.c.audit.is_(True))
    kept = [select(table.c.sample_id).where(table.c.task == task) for table in (judged, audited)]
    ids = sorted(row[0] for row in work.rows(union(found, *kept)))
    judge(work, task, ids, labelled=True)


def _answers(work: Work, task: str, sample_ids: Sequence[str]) -> Any:
    return select(scores).where(
        scores.c.task == task,
        work.among(scores.c.sample_id, sample_ids),
        scores.c.output.is_not(None),
    )


def _judged(
    words: Mapping[str, Row[Any]], answers: Mapping[str, Sequence[Row[Any]]]
) -> list[dict[str, Any]]:
    """One row for each audited sample and rollout whose arms answered it.

    One that nobody can label is left out: whether it can be is its own, not an arm's, and neither
    answer to it is the better one. An arm's answer is the live one before one in shadow, and of
    several of a kind the first.
    """
    rows = []
    for sample_id, word in words.items():
        if word.value is None:
            continue
        rollouts: dict[str, dict[str, Any]] = {}
        for answer in sorted(answers.get(sample_id, ()), key=_live_then_first):
            if answer.rollout_id is None or answer.arm not in ARMS:
                continue
            right = is_right(answer.output, word.value, answer.scores)
            row = rollouts.setdefault(answer.rollout_id, {})
            row.setdefault(answer.arm, right)
            row.setdefault(f"{answer.arm}_live", right if answer.live else None)
        for rollout_id, arms in rollouts.items():
            blank = {name: None for arm in ARMS for name in (arm, f"{arm}_live")}
            rows.append(_place(word) | {"rollout_id": rollout_id} | blank | arms)
    return rows


def _audited(
    words: Mapping[str, Row[Any]], answers: Mapping[str, Sequence[Row[Any]]]
) -> list[dict[str, Any]]:
    """One row for each audited sample and release that answered it, live or else in shadow."""
    rows = []
    for sample_id, word in words.items():
        releases: dict[str, Row[Any]] = {}
        for answer in sorted(answers.get(sample_id, ()), key=_live_then_first):
            releases.setdefault(answer.release, answer)
        rows += [
            _place(word)
            | {
                "release": release,
                "output": answer.output,
                "confidence": answer.confidence,
                "scores": answer.scores,
                "label": word.value,
                "correct": word.value is not None
                and is_right(answer.output, word.value, answer.scores),
            }
            for release, answer in releases.items()
        ]
    return rows


def _place(word: Row[Any]) -> dict[str, Any]:
    return {
        "task": word.task,
        "sample_id": word.sample_id,
        "gone": False,
        "inclusion_probability": word.inclusion_probability,
        "event_id": word.event_id,
        "occurred_at": word.occurred_at,
    }


def _stored(work: Work, table: Table, task: str, sample_ids: list[str]) -> list[Row[Any]]:
    found = select(table).where(table.c.task == task, work.among(table.c.sample_id, sample_ids))
    return list(work.rows(found))


def _differing(
    table: Table, rows: Sequence[dict[str, Any]], stored: Sequence[Row[Any]]
) -> list[dict[str, Any]]:
    """What is to be written so that ``rows`` are stored; a stored one that is not among them
    goes."""
    name = _KEYS[table.name]
    before = {(row.sample_id, getattr(row, name)): row for row in stored}
    wanted = {(row["sample_id"], row[name]): row for row in rows}
    written = [
        row
        for key, row in wanted.items()
        if key not in before or any(getattr(before[key], field) != row[field] for field in row)
    ]
    for key, old in before.items():
        if key not in wanted and not old.gone:
            written.append(dict(old._mapping) | {"gone": True})
    return written


def _live_then_first(row: Row[Any]) -> tuple[Any, ...]:
    return not row.live, row.occurred_at, row.event_id
