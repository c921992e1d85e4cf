"""An expert's answer, skip and undo: each one transaction of state and the events it causes.

A claim is not asked for: an answer that comes after its lease ran out is work that was done, and
counts as long as the sample is not settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from flywheel.contracts.events import Event, LabelRecorded, LabelSettled
from flywheel.contracts.ids import new_id
from flywheel.errors import Conflict, NotFound, RequestError, UnknownLabel
from flywheel.kinds import Answers
from flywheel.review.agreement import verdict
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer, ReviewTask, ReviewTransaction, TaskState

# How much of an answer a message repeats.
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Submitted:
    """Where a sample stands after an answer or a skip; ``repeated`` ones changed nothing."""

    state: TaskState
    repeated: bool = False

    @property
    def settled(self) -> bool:
        """Whether experts have agreed."""
        return self.state == "settled"


def submit_answer(
    tx: ReviewTransaction,
    task: str,
    answers: Answers,
    settings: ReviewSettings,
    answer: Answer,
) -> Submitted:
    """Record an answer; settle the sample when experts agree. The same answer again is no error.

    That a sample can't be labelled (``answer.unlabelable``) is none of ``answers`` and settles
    without one. Raises UnknownLabel, RequestError for a text that cannot be one, NotFound, and
    Conflict when the sample is settled or withdrawn already or this annotator answered otherwise.
    """
    if not answer.unlabelable:
        _check_value(task, answers, answer.value)
    answer = _signed(tx, answer)
    sample = _find(tx, task, answer.sample_id)
    given = tx.desk.answers(task, answer.sample_id)
    earlier = _of(given, answer.annotator)
    if earlier is not None and _said(earlier) == _said(answer):
        return Submitted(sample.state, repeated=True)
    _refuse_if_closed(sample)
    if earlier is not None:
        raise Conflict(f"{answer.annotator} {_did(earlier)} already: undo that first")
    settled = _settlement(sample, [*given, answer], answers, settings, answer.answered_at)
    tx.desk.answer(task, answer, settled)
    events: list[Event] = [] if answer.unlabelable else [_label(sample, answer)]
    if settled is not None:
        events.append(settled)
    tx.outbox.add(events)
    return Submitted(_find(tx, task, answer.sample_id).state)


def skip(
    tx: ReviewTransaction,
    task: str,
    answers: Answers,
    settings: ReviewSettings,
    answer: Answer,
) -> Submitted:
    """Record that this annotator does not want the sample (``answer`` is a skip).

    A skip of a sample that is settled or withdrawn, or was skipped before, changes nothing. Raises
    NotFound, and Conflict when this annotator answered it.
    """
    answer = _signed(tx, answer)
    sample = _find(tx, task, answer.sample_id)
    given = tx.desk.answers(task, answer.sample_id)
    earlier = _of(given, answer.annotator)
    if earlier is not None and not earlier.skipped:
        raise Conflict(f"{answer.annotator} {_did(earlier)} already: undo that first")
    if earlier is not None or sample.state in ("settled", "withdrawn"):
        return Submitted(sample.state, repeated=True)
    # An undo in an earlier version left a sample open that the others' answers settle.
    settled = _settlement(sample, given, answers, settings, answer.answered_at)
    tx.desk.answer(task, answer, settled)
    if settled is not None:
        tx.outbox.add([settled])
    return Submitted(_find(tx, task, answer.sample_id).state)


def undo(
    tx: ReviewTransaction,
    task: str,
    answers: Answers,
    annotator: str,
    now: datetime,
    settings: ReviewSettings,
) -> ReviewTask | None:
    """Take back the annotator's latest answer or skip.

    What is settled then is the verdict of the answers that remain: where it is another one, a
    LabelSettled says so, or withdraws. Returns the sample, which is the annotator's to answer again
    unless the others' answers settle it or it was labelled elsewhere (its state says so), or None
    when there is nothing to undo in this task.
    """

    def resettle(
        sample: ReviewTask, taken_back: Answer, remaining: Sequence[Answer]
    ) -> LabelSettled | None:
        # A skip had no part in the settlement, whatever the settings have become since.
        if sample.state == "withdrawn" or (sample.state == "settled" and taken_back.skipped):
            return None
        settled = _settlement(sample, remaining, answers, settings, now)
        if settled is None and sample.state == "settled":
            return _withdrawal(sample, annotator, now)
        return settled

    annotator = tx.people.known_as(annotator)
    undone = tx.desk.undo(task, annotator, now, settings.lease_seconds, resettle)
    if undone is None:
        return None
    if undone.settled is not None:
        tx.outbox.add([undone.settled])
    return undone.sample


def _signed(tx: ReviewTransaction, answer: Answer) -> Answer:
    return msgspec.structs.replace(answer, annotator=tx.people.known_as(answer.annotator))


def _find(tx: ReviewTransaction, task: str, sample_id: str) -> ReviewTask:
    sample = tx.desk.find(task, sample_id)
    if sample is None:
        raise NotFound(f"no sample {sample_id!r} in the queue of task {task!r}")
    return sample


def _of(answers: Sequence[Answer], annotator: str) -> Answer | None:
    return next((answer for answer in answers if answer.annotator == annotator), None)


def _check_value(task: str, answers: Answers, value: str | None) -> None:
    if not answers.knows(value):
        raise UnknownLabel(f"{value!r} is no label of {task!r}: use {answers.described}")
    problem = answers.problem(value or "")
    if problem:
        raise RequestError(f"value: {problem}")


def _said(answer: Answer) -> tuple[str | None, bool]:
    return answer.value, answer.unlabelable


def _did(answer: Answer) -> str:
    if answer.value is not None:
        return _answered(answer.value)
    return "said that it can't be labelled" if answer.unlabelable else "skipped this sample"


def _answered(value: str) -> str:
    shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
    return f"answered {shown!r}"


def _refuse_if_closed(sample: ReviewTask) -> None:
    if sample.state == "settled":
        raise Conflict(f"sample {sample.sample_id!r} is settled already; ask for the next one")
    if sample.state == "withdrawn":
        raise Conflict(
            f"sample {sample.sample_id!r} was labelled elsewhere meanwhile; ask for the next one"
        )


def _settlement(
    sample: ReviewTask,
    given: Sequence[Answer],
    answers: Answers,
    settings: ReviewSettings,
    now: datetime,
) -> LabelSettled | None:
    agreed = verdict(given, settings, same=answers.agreeing)
    if agreed is None:
        return None
    return LabelSettled(
        event_id=new_id(),
        occurred_at=now,
        task=sample.task,
        sample_id=sample.sample_id,
        value=agreed.value,
        unlabelable=agreed.value is None,
        annotators=agreed.annotators,
        agreement=agreed.agreement,
        inclusion_probability=sample.inclusion_probability,
        audit=sample.audit,
        reason=sample.reason,
    )


def _withdrawal(sample: ReviewTask, annotator: str, now: datetime) -> LabelSettled:
    return LabelSettled(
        event_id=new_id(),
        occurred_at=now,
        task=sample.task,
        sample_id=sample.sample_id,
        value=None,
        annotators=(annotator,),
        agreement=0.0,
        inclusion_probability=sample.inclusion_probability,
        audit=sample.audit,
        reason=f"undone by {annotator}",
    )


def _label(sample: ReviewTask, answer: Answer) -> LabelRecorded:
    return LabelRecorded(
        event_id=new_id(),
        occurred_at=answer.answered_at,
        task=sample.task,
        sample_id=sample.sample_id,
        value=answer.value or "",
        source="expert",
        annotator=answer.annotator,
        inclusion_probability=sample.inclusion_probability,
        audit=sample.audit,
        release=sample.release,
        reason=sample.reason,
    )
