"""A history of so many requests, written into the tables and then counted as an upgrade counts.

One task and one running rollout that has all of the traffic, half each arm. Of the requests, the
other arm answered a fifth in shadow; 3 % were audited and 60 % of those labelled by experts; 30 %
were labelled automatically. Ids are ordered by time, as the gateway's are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import insert

from flywheel.rollout.ports import Rollout
from flywheel.statistics.buckets import latency_bucket
from storage.database import Database
from storage.repositories.judged import truths
from storage.repositories.review_states import outcomes, tasks
from storage.repositories.rollout_totals import scores
from storage.repositories.settled import clocks, labels, settled, traffic
from storage.work import Work

TASK, CHAMPION, CHALLENGER, ROLLOUT = "bench", "bench-old", "bench-new", "ro-bench"
LABELS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
EVERY = timedelta(milliseconds=10)
BATCH = 5000
SHADOWED, AUDITED, AUTOMATIC = 5, 33, 3


def seed(database: Database, start: int, stop: int, begin: datetime) -> None:
    """Requests number ``start`` to ``stop``; the rollout began with the first of all."""
    with database.transaction("controller") as tx:
        if tx.rollouts.active(TASK) is None:
            tx.rollouts.set_champion(TASK, CHAMPION)
            tx.rollouts.save(_rollout(begin), None)
    for first in range(start, stop, BATCH):
        rows = [_Request(number, begin) for number in range(first, min(first + BATCH, stop))]
        with database.work() as work:
            _write(work, rows, first // BATCH + 1)
    database.recount()
    database.analyse()


class _Request:
    """One request and what became of it."""

    def __init__(self, number: int, begin: datetime) -> None:
        chance = random.Random(number)
        self.number = number
        self.at = begin + EVERY * number
        self.sample_id = ordered_id(self.at, number)
        self.arm = "challenger" if number % 2 else "champion"
        self.truth = LABELS[chance.randrange(len(LABELS))]
        self.chance = chance
        self.audited = number % AUDITED == 0
        self.expert = self.audited and chance.random() < 0.6
        self.automatic = not self.audited and number % AUTOMATIC == 1
        self.confidence = 0.5 + chance.random() / 2
        self.output = self.answer()
        self.failed = chance.random() < 0.005

    def answer(self) -> str:
        """Right nine times of ten."""
        if self.chance.random() < 0.9:
            return self.truth
        return LABELS[self.chance.randrange(len(LABELS))]


def ordered_id(at: datetime, number: int) -> str:
    """A UUIDv7 of this moment."""
    high = (int(at.timestamp() * 1000) << 16) | 0x7000
    return str(UUID(int=(high << 64) | (1 << 63) | number))


def _rollout(begin: datetime) -> Rollout:
    return Rollout(
        rollout_id=ROLLOUT,
        task=TASK,
        champion=CHAMPION,
        challenger=CHALLENGER,
        state="canary",
        step=0,
        share=0.5,
        started_at=begin,
        step_started_at=begin,
        steps=(0.5, 0.9),
    )


def _write(work: Work, rows: list[_Request], seq: int) -> None:
    for table, values in (
        (traffic, [_sent(row, seq) for row in rows]),
        (scores, list(_scored(rows))),
        (tasks, [_queued(row) for row in rows if row.audited]),
        (outcomes, [_outcome(row) for row in rows if row.expert]),
        (truths, [_truth(row) for row in rows if row.expert]),
        (labels, [_label(row, seq) for row in rows if row.expert or row.automatic]),
        (settled, [_settled(row, seq) for row in rows if row.expert or row.automatic]),
    ):
        if values:
            work.connection.execute(insert(table), values)
    work.put(clocks, [{"task": TASK, "ticks": seq, "settled_at": seq}], ["task"])


def _sent(row: _Request, seq: int) -> dict[str, Any]:
    return {
        "event_id": ordered_id(row.at, row.number + (1 << 40)),
        "seq": seq,
        "task": TASK,
        "sample_id": row.sample_id,
        "text": f"question number {row.number}: how far is it from here to there?",
        "messages": None,
        "origin": "gateway",
        "source": f"app-{row.number % 20}",
        "unit": f"user-{row.number % 50_000}",
        "release": CHALLENGER if row.number % 2 else CHAMPION,
        "arm": row.arm,
        "rollout_id": ROLLOUT,
        "output": None if row.failed else row.output,
        "confidence": row.confidence,
        "latency_ms": 8.0 + row.chance.random() * 10,
        "status": 503 if row.failed else 200,
        "error": "no model server" if row.failed else None,
        "cached": False,
        "occurred_at": row.at,
    }


def _scored(rows: list[_Request]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield _score(row, row.number % 2 == 1, live=True)
        if row.number % SHADOWED == 0:
            yield _score(row, row.number % 2 == 0, live=False)


def _score(row: _Request, challenger: bool, *, live: bool) -> dict[str, Any]:
    output = row.output if live else row.answer()
    latency = 8.0 + row.chance.random() * 10
    failed = row.failed and live
    return {
        "task": TASK,
        "sample_id": row.sample_id,
        "release": CHALLENGER if challenger else CHAMPION,
        "live": live,
        "event_id": ordered_id(row.at, row.number + ((2 if live else 3) << 40)),
        "arm": "challenger" if challenger else "champion",
        "rollout_id": ROLLOUT,
        "challenger_share": 0.5,
        "output": None if failed else output,
        "confidence": row.confidence,
        "scores": {output: row.confidence, "other": 1 - row.confidence},
        "unit": f"user-{row.number % 50_000}",
        "latency_ms": latency,
        "latency_bucket": latency_bucket(latency),
        "failed": failed,
        "cached": False,
        "occurred_at": row.at,
    }


def _queued(row: _Request) -> dict[str, Any]:
    return {
        "task": TASK,
        "sample_id": row.sample_id,
        "event_id": ordered_id(row.at, row.number + (4 << 40)),
        "text": f"question number {row.number}: how far is it from here to there?",
        "messages": None,
        "reason": "drawn at random",
        "precedence": -50.0,
        "inclusion_probability": 0.05,
        "audit": True,
        "release": CHALLENGER if row.number % 2 else CHAMPION,
        "prediction": row.output,
        "scores": {row.output: row.confidence},
        "confidence": row.confidence,
        "rollout_id": ROLLOUT,
        "source": f"app-{row.number % 20}",
        "tokens_cut": 0,
        "closed": False,
        "state": "open",
        "requested_at": row.at,
    }


def _outcome(row: _Request) -> dict[str, Any]:
    return {
        "task": TASK,
        "sample_id": row.sample_id,
        "event_id": ordered_id(row.at, row.number + (5 << 40)),
        "value": row.truth,
        "settled_at": row.at,
    }


def _truth(row: _Request) -> dict[str, Any]:
    return {
        "task": TASK,
        "sample_id": row.sample_id,
        "source": "expert",
        "rank": 0,
        "event_id": ordered_id(row.at, row.number + (5 << 40)),
        "value": row.truth,
        "unlabelable": False,
        "audit": True,
        "inclusion_probability": 0.05,
        "occurred_at": row.at,
    }


def _label(row: _Request, seq: int) -> dict[str, Any]:
    return {
        "event_id": ordered_id(row.at, row.number + (5 << 40)),
        "seq": seq,
        "task": TASK,
        "sample_id": row.sample_id,
        "value": row.truth if row.expert else row.output,
        "source": "expert" if row.expert else "auto",
        "rank": 0 if row.expert else 5,
        "settles": True,
        "annotators": ["ada"] if row.expert else ["auto"],
        "agreement": 1.0,
        "inclusion_probability": 0.05 if row.expert else 1.0,
        "audit": row.expert,
        "confidence": None if row.expert else row.confidence,
        "release": None,
        "reason": "",
        "split": None,
        "unlabelable": False,
        "occurred_at": row.at,
    }


def _settled(row: _Request, seq: int) -> dict[str, Any]:
    word = _label(row, seq)
    return {name: word[name] for name in word if name in settled.c} | {
        "traffic_id": ordered_id(row.at, row.number + (1 << 40)),
        "sent_by": f"app-{row.number % 20}",
        "answered": row.output,
        "through_gateway": True,
    }


def beginning(requests: int) -> datetime:
    """When a history of so many requests began, so that it ends now."""
    return datetime.now(UTC) - EVERY * requests
