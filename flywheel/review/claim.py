"""Give an expert the next samples, held for them until the lease runs out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from flywheel.review.config import ReviewSettings
from flywheel.review.ports import QueueDepth, ReviewTask, ReviewTransaction, TaskState


@dataclass(frozen=True, slots=True)
class Claimed:
    """What an expert may answer now, most urgent first, and how full the queue is; ``shown`` is
    where the sample on their screen stands (None: there is none)."""

    items: list[ReviewTask]
    depth: QueueDepth
    shown: TaskState | Literal["answered"] | None = None


def claim_next(
    tx: ReviewTransaction,
    *,
    task: str,
    annotator: str,
    limit: int,
    now: datetime,
    settings: ReviewSettings,
    shown: str = "",
) -> Claimed:
    """Claim up to ``limit`` samples. Asking again gives the same ones and renews their lease.

    ``shown`` is the id of the sample on the expert's screen: one that is settled, withdrawn,
    or "answered" by them in another window takes no answer any more.
    """
    who = tx.people.known_as(annotator)
    # Before others are locked: of two who look at each other's samples, one would wait for ever.
    stands = _standing(tx, task, shown, who) if shown else None
    items = tx.desk.claim(task, who, now, settings.lease_seconds, limit, settings.answers_needed)
    return Claimed(items, tx.desk.depth(task, now), stands)


def _standing(
    tx: ReviewTransaction, task: str, sample_id: str, who: str
) -> TaskState | Literal["answered"] | None:
    sample = tx.desk.find(task, sample_id)
    if sample is None:
        return None
    if sample.state not in ("settled", "withdrawn"):
        given = tx.desk.answers(task, sample_id)
        if any(answer.annotator == who for answer in given):
            return "answered"
    return sample.state
