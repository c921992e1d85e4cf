"""The review queue's JSON API. The console mounts it; its pages are clients like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from prometheus_client import Counter, Histogram
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from flywheel.contracts.answers import LONGEST_TEXT
from flywheel.contracts.ids import utc_now
from flywheel.errors import NotFound
from flywheel.kinds import Answers
from flywheel.monitoring.answers import answers, json_answer
from flywheel.review import claim, submit
from flywheel.review.access import annotator_name
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer, QueueDepth, ReviewTransaction
from flywheel.review.views import Hand, TakenBack, hand, queued

Transactions = Callable[[], AbstractContextManager[ReviewTransaction]]
Tasks = Mapping[str, tuple[Answers, ReviewSettings]]
Responses = dict[int | str, dict[str, Any]]
Annotator = Annotated[
    str,
    AfterValidator(annotator_name),
    Field(description="Who is answering: 1 to 64 characters.", examples=["ada"]),
]

LONGEST_SECONDS = 86_400


def _measured(seconds: object) -> float:
    """Seconds as a client measured them, 0 where they can't be: a clock that was set back or a page
    left open over the weekend is no reason to refuse an answer."""
    if (
        isinstance(seconds, int | float)
        and not isinstance(seconds, bool)
        and 0 <= seconds <= LONGEST_SECONDS
    ):
        return float(seconds)
    return 0.0


Seconds = Annotated[
    float,
    BeforeValidator(_measured),
    Field(
        description="How long the answer took, for the figures about experts. What is negative, "
        f"no number, or more than {LONGEST_SECONDS} counts as not measured."
    ),
]

_answers = Counter(
    "flywheel_review_answers_total", "Answers of experts, by what they did.", ["task", "outcome"]
)
_seconds = Histogram(
    "flywheel_review_answer_seconds",
    "How long an expert took for one answer, as the client measured it.",
    ["task"],
    buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300),
)


class AnswerBody(BaseModel):
    """An expert's answer to one sample."""

    annotator: Annotator
    value: str = Field(
        description="One of the task's labels; where it has none, the right text: not empty, at "
        f"most {LONGEST_TEXT} characters."
    )
    seconds: Seconds = 0.0


class UnlabelableBody(BaseModel):
    """Who says that a sample can't be labelled."""

    annotator: Annotator
    seconds: Seconds = 0.0


class AnnotatorBody(BaseModel):
    """Who skips or undoes."""

    annotator: Annotator


class Standing(BaseModel):
    """Where a sample stands now."""

    state: str
    settled: bool


# What routes below answer with, beside ``Standing``.
ANSWERS = (Hand, QueueDepth, TakenBack)


def router(
    transactions: Transactions,
    tasks: Tasks,
    now: Callable[[], datetime] = utc_now,
    *,
    reading: Transactions | None = None,
) -> APIRouter:
    """Routes under /api/review. Errors are FlywheelErrors, for the app's problem details.

    ``reading`` opens transactions that can't write (default: the same as the others).
    """
    desk = _Desk(transactions, reading or transactions, tasks, now)
    routes = APIRouter(prefix="/api/review", tags=["review"])
    known: Responses = {404: {"description": "No such task or sample."}}
    settled: Responses = {**known, 409: {"description": "Settled already, or answered otherwise."}}

    routes.get("/{task}/next", responses=known | answers(Hand, "What is theirs now."))(desk.next)
    routes.get("/{task}/depth", responses=known | answers(QueueDepth, "As it is now."))(desk.depth)
    routes.post("/{task}/undo", responses=settled | answers(TakenBack, "It is taken back."))(
        desk.undo
    )
    # A sample's id is the client's to choose and may hold slashes.
    routes.post("/{task}/{sample_id:path}/answer", responses=settled)(desk.answer)
    routes.post("/{task}/{sample_id:path}/unlabelable", responses=settled)(desk.unlabelable)
    routes.post("/{task}/{sample_id:path}/skip", responses=settled)(desk.skip)
    return routes


@dataclass(frozen=True, slots=True)
class _Desk:
    """The handlers: check the task, open a transaction, call the use case, shape the reply."""

    transactions: Transactions
    reading: Transactions
    tasks: Tasks
    now: Callable[[], datetime]

    def next(
        self,
        task: str,
        annotator: Annotated[Annotator, Query()],
        limit: Annotated[int, Query(ge=1, le=50)] = 2,
        shown: Annotated[str, Query(description="The sample on the client's screen.")] = "",
    ) -> Response:
        """Claim the next samples for an annotator; asking again gives the same ones. ``shown`` in
        the reply is where the sample on the client's screen stands: settled, withdrawn or answered
        (by this annotator, elsewhere), it takes no answer any more."""
        _, settings = self._task(task)
        with self.transactions() as tx:
            claimed = claim.claim_next(
                tx,
                task=task,
                annotator=annotator,
                limit=limit,
                now=self.now(),
                settings=settings,
                shown=shown,
            )
        return json_answer(hand(claimed))

    def depth(self, task: str) -> Response:
        """How many samples are in each state."""
        self._task(task)
        with self.reading() as tx:
            return json_answer(tx.desk.depth(task, self.now()))

    def answer(self, task: str, sample_id: str, body: AnswerBody) -> Standing:
        """Answer a sample. Sending the same answer again is safe."""
        return self._submit(
            task,
            Answer(
                sample_id=sample_id,
                annotator=body.annotator,
                value=body.value,
                answered_at=self.now(),
                seconds=body.seconds,
            ),
        )

    def unlabelable(self, task: str, sample_id: str, body: UnlabelableBody) -> Standing:
        """Say that no answer fits a sample. It is settled without one when as many experts agree
        as on a label, and is never trained on."""
        return self._submit(
            task,
            Answer(
                sample_id=sample_id,
                annotator=body.annotator,
                value=None,
                unlabelable=True,
                answered_at=self.now(),
                seconds=body.seconds,
            ),
        )

    def skip(self, task: str, sample_id: str, body: AnnotatorBody) -> Standing:
        """Leave a sample to other experts."""
        answers, settings = self._task(task)
        answer = Answer(
            sample_id=sample_id, annotator=body.annotator, value=None, answered_at=self.now()
        )
        with self.transactions() as tx:
            submitted = submit.skip(tx, task, answers, settings, answer)
        self._count(task, "skipped", submitted)
        return Standing(state=submitted.state, settled=submitted.settled)

    def undo(self, task: str, body: AnnotatorBody) -> Response:
        """Take back the annotator's latest answer or skip. The item's state says whether it is
        theirs again (claimed) or closed without it (settled by the others, or withdrawn)."""
        answers, settings = self._task(task)
        with self.transactions() as tx:
            sample = submit.undo(tx, task, answers, body.annotator, self.now(), settings)
        if sample is not None:
            _answers.labels(task, "undone").inc()
        return json_answer(TakenBack(item=None if sample is None else queued(sample)))

    def _submit(self, task: str, answer: Answer) -> Standing:
        answers, settings = self._task(task)
        with self.transactions() as tx:
            submitted = submit.submit_answer(tx, task, answers, settings, answer)
        self._count(task, "settled" if submitted.settled else "answered", submitted)
        if answer.seconds and not submitted.repeated:
            _seconds.labels(task).observe(answer.seconds)
        return Standing(state=submitted.state, settled=submitted.settled)

    def _count(self, task: str, outcome: str, submitted: submit.Submitted) -> None:
        _answers.labels(task, "repeated" if submitted.repeated else outcome).inc()

    def _task(self, task: str) -> tuple[Answers, ReviewSettings]:
        settings = self.tasks.get(task)
        if settings is None:
            known = ", ".join(sorted(self.tasks)) or "none"
            raise NotFound(f"no task {task!r} (tasks: {known})")
        return settings
