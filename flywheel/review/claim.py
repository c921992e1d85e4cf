"""Give an expert the next samples, held for them until the lease runs out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from flywheel.review.config import ReviewSettings
from flywheel.review.ports import QueueDepth, ReviewTask, ReviewTransaction


@dataclass(frozen=True, slots=True)
class Claimed:
    """What an expert may answer now, most urgent first, and how full the queue is."""

    items: list[ReviewTask]
    depth: QueueDepth


def claim_next(
    tx: ReviewTransaction,
    *,
    task: str,
    annotator: str,
    limit: int,
    now: datetime,
    settings: ReviewSettings,
) -> Claimed:
    """Claim up to ``limit`` samples. Asking again gives the same ones and renews their lease."""
    items = tx.desk.claim(
        task,
        tx.people.known_as(annotator),
        now,
        settings.lease_seconds,
        limit,
        settings.answers_needed,
    )
    return Claimed(items, tx.desk.depth(task, now))
