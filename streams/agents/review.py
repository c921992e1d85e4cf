"""The review queue's intake: opens what triage asks for, closes what was settled elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from flywheel.contracts.events import Event, LabelRecorded, ReviewRequested, RolloutChanged
from flywheel.contracts.labels import TRUSTED
from flywheel.review.ports import ReviewIntake, ReviewTask
from flywheel.triage.audit import AUDIT_PRIORITY
from streams.agent_loop import Agent
from streams.agents.inputs import Inputs, with_other_inputs
from streams.agents.once import handled_once
from streams.agents.protocols import Accept, GroupPositions, Trace, Transactions, noted
from streams.pace import WRITING

GROUP = "flywheel.review"
# Not flywheel.settled: only this queue settles, and a late settlement, read after its undo,
# would take a sample away from the expert who has just got it back.
TOPICS = ("flywheel.review", "flywheel.labels", "flywheel.rollouts")

ROLLED_BACK_PRIORITY = 90.0
_ENDED = ("promoted", "rolled_back")


class Desk(Protocol):
    """The one thing read of the queue: whether a sample waits as an audit."""

    def find(self, task: str, sample_id: str) -> ReviewTask | None:
        """One sample of a task with its present state, or None."""
        ...


class ReviewAgentTransaction(Protocol):
    """What one transaction of this agent offers."""

    @property
    def intake(self) -> ReviewIntake:
        """The queue, as written by this agent."""
        ...

    @property
    def desk(self) -> Desk:
        """The queue, as read."""
        ...

    @property
    def label_intake(self) -> Inputs:
        """The inputs of samples."""
        ...

    @property
    def positions(self) -> GroupPositions:
        """How far groups are."""
        ...


def agent(db: Transactions[ReviewAgentTransaction], accept: Accept | None = None) -> Agent:
    """The agent that fills the review queue."""

    take_in = handled_once(
        db, GROUP, _take_in, accept, lambda tx, events: with_other_inputs(tx.label_intake, events)
    )
    return Agent(GROUP, TOPICS, take_in, noted(db), WRITING)


def trace(event: Event) -> Trace | None:
    """Where this agent's effect of an event is found, if it has one that stays."""
    if isinstance(event, ReviewRequested):
        return Trace("unqueued", (event.task, event.sample_id))
    if isinstance(event, RolloutChanged) and event.state in _ENDED:
        return Trace("unended", (event.task, event.rollout_id))
    return None


def _take_in(tx: ReviewAgentTransaction, events: Sequence[Event]) -> None:
    requests = [event for event in events if isinstance(event, ReviewRequested)]
    if requests:
        tx.intake.open(requests)
    labelled = tx.intake.unheard(
        [event for event in events if isinstance(event, LabelRecorded) and event.source in TRUSTED]
    )
    # An audit asks what an expert says of a sample chosen at random: to drop those that someone
    # else labelled would bias what is learnt from the rest.
    withdrawn = sorted(key for key in labelled if _may_go(tx.desk.find(*key)))
    for task, samples in groupby(withdrawn, key=itemgetter(0)):
        tx.intake.withdraw(task, [sample for _, sample in samples])
    for event in events:
        if isinstance(event, RolloutChanged) and event.state in _ENDED:
            tx.intake.end_rollout(event.task, event.rollout_id, AUDIT_PRIORITY)
            if event.state == "rolled_back" and event.challenger is not None:
                tx.intake.raise_priority(event.task, event.challenger, ROLLED_BACK_PRIORITY)


def _may_go(task: ReviewTask | None) -> bool:
    return task is not None and not task.audit and task.state != "settled"
