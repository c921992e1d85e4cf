"""What the expert queue needs of a database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from flywheel.contracts.events import LabelRecorded, LabelSettled, ReviewRequested
from flywheel.contracts.publishing import Outbox
from flywheel.contracts.sample import Content

TaskState = Literal["open", "claimed", "submitted", "settled", "withdrawn"]


class ReviewTask(msgspec.Struct, frozen=True, kw_only=True):
    """One sample in the queue of one task, where it is never queued twice. Of its input the release
    did not read ``tokens_cut`` tokens."""

    sample_id: str
    task: str
    content: Content
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
    state: TaskState = "open"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One expert's answer. Without a ``value`` it says that the sample can't be labelled
    (``unlabelable``), or it is a skip: the sample is not offered to them again."""

    sample_id: str
    annotator: str
    value: str | None
    answered_at: datetime
    seconds: float = 0.0
    unlabelable: bool = False

    @property
    def skipped(self) -> bool:
        """Whether it says nothing of the sample."""
        return self.value is None and not self.unlabelable


class Undone(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was taken back: its sample as it stands now, and what became of the
    settlement (None: it stays as it was)."""

    sample: ReviewTask
    settled: LabelSettled | None = None


# The sample before, the answer taken back and those that remain → what becomes of the settlement:
# None when it stays as it was; a LabelSettled that withdraws when nothing is settled any more.
Resettle = Callable[[ReviewTask, Answer, Sequence[Answer]], LabelSettled | None]


class QueueDepth(msgspec.Struct, frozen=True, kw_only=True):
    """How many samples are in each state, how many of the settled ones can't be labelled, and since
    when the oldest open one waits."""

    open: int = 0
    claimed: int = 0
    submitted: int = 0
    settled: int = 0
    unlabelable: int = 0
    withdrawn: int = 0
    oldest_open: datetime | None = None


class ReviewIntake(Protocol):
    """Written by the review agent alone."""

    def open(self, requests: Sequence[ReviewRequested]) -> int:
        """Queue samples; those already known, in whatever state, are left alone. Returns new."""
        ...

    def unheard(self, labels: Sequence[LabelRecorded]) -> set[tuple[str, str]]:
        """(task, sample id) of those with a label that is later than any heard of before; from now
        on these are heard of."""
        ...

    def withdraw(self, task: str, sample_ids: Sequence[str]) -> int:
        """Take samples that were settled elsewhere out of a task's queue. Returns how many."""
        ...

    def end_rollout(self, task: str, rollout_id: str, priority: float) -> int:
        """Nobody waits for the audits of this rollout any more: those open, and those to come,
        get at most ``priority``, so that they are not answered before a running rollout's."""
        ...

    def raise_priority(self, task: str, release: str, priority: float) -> int:
        """Lift the task's open samples that ``release`` answered to at least ``priority``."""
        ...


class ReviewDesk(Protocol):
    """Written by the console alone. Every method runs inside the caller's transaction."""

    def claim(
        self,
        task: str,
        annotator: str,
        now: datetime,
        lease_seconds: float,
        limit: int,
        answers_needed: int = 1,
    ) -> list[ReviewTask]:
        """Up to ``limit`` samples held by ``annotator``: those held already first, then the most
        urgent open ones (priority, then age). A lease that ran out is open again. A sample that
        this annotator answered or skipped, or that is settled or withdrawn, is never given; nor
        is one that enough others hold to bring it to ``answers_needed`` answers."""
        ...

    def find(self, task: str, sample_id: str) -> ReviewTask | None:
        """One sample of a task with its present state, or None. Its row is locked until the
        transaction ends, so that of two experts who answer at once the second sees the first
        one's answer."""
        ...

    def answers(self, task: str, sample_id: str) -> list[Answer]:
        """Answers to one sample of a task, oldest first, skips included."""
        ...

    def answer(self, task: str, answer: Answer, settled: LabelSettled | None) -> None:
        """Record an answer, end this annotator's claim, and mark the sample settled when
        ``settled`` is given. Raises Conflict when this annotator answered already."""
        ...

    def undo(
        self, task: str, annotator: str, now: datetime, lease_seconds: float, resettle: Resettle
    ) -> Undone | None:
        """Take back this annotator's latest answer or skip in a task, and record what ``resettle``
        makes of the settlement. Unless the sample is settled or withdrawn then, this annotator
        claims it again. None when there is nothing to undo."""
        ...

    def queued(self) -> set[str]:
        """Tasks of which samples wait, claimed ones among them."""
        ...

    def depth(self, task: str, now: datetime) -> QueueDepth:
        """Counts by state."""
        ...


class People(Protocol):
    """Who has answered so far. Written by the console alone."""

    def known_as(self, name: str) -> str:
        """The spelling under which this person came first: one person is one name, however it was
        typed since (see ``access.person``)."""
        ...


class ReviewTransaction(Protocol):
    """What one transaction of the console's review part offers."""

    desk: ReviewDesk
    people: People
    outbox: Outbox
