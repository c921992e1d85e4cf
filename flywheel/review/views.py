"""What the queue's API shows of samples: nothing that would lead an expert's answer."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from flywheel.contracts.reasons import before_answering
from flywheel.contracts.sample import Message, as_text, not_plain
from flywheel.review.claim import Claimed
from flywheel.review.ports import QueueDepth, ReviewTask, TaskState


class QueuedSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample as an expert gets it: its reason says nothing of what the model answered. ``text``
    is its input, and ``messages`` where it is more than plain text; of it the release did not read
    ``tokens_cut`` tokens."""

    sample_id: str
    task: str
    text: str
    messages: tuple[Message, ...] | None
    reason: str
    priority: float
    inclusion_probability: float
    audit: bool
    release: str | None
    prediction: str | None
    scores: dict[str, float]
    confidence: float | None
    rollout_id: str | None
    source: str
    tokens_cut: int
    requested_at: datetime
    state: TaskState


class Hand(msgspec.Struct, frozen=True, kw_only=True):
    """What an expert may answer now, most urgent first, and how full the queue is; ``shown`` is
    where the sample on their screen stands (None: there is none)."""

    items: list[QueuedSample]
    depth: QueueDepth
    shown: TaskState | Literal["answered"] | None


class TakenBack(msgspec.Struct, frozen=True, kw_only=True):
    """The sample whose answer was taken back, as it stands now; None: there was nothing to undo."""

    item: QueuedSample | None


def queued(sample: ReviewTask) -> QueuedSample:
    """How a sample is shown."""
    fields = msgspec.structs.asdict(sample)
    content = fields.pop("content")
    fields["reason"] = before_answering(sample.reason, audit=sample.audit)
    return QueuedSample(text=as_text(content), messages=not_plain(content), **fields)


def hand(claimed: Claimed) -> Hand:
    """What was claimed, as it is shown."""
    items = [queued(sample) for sample in claimed.items]
    return Hand(items=items, depth=claimed.depth, shown=claimed.shown)
