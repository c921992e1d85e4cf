"""Evidence: what each arm of a rollout answered, beside what turned out to be true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flywheel.contracts.events import Event, LabelRecorded, TrafficRecorded
from flywheel.rollout.ports import EvidenceIntake, is_answer, is_truth
from streams.agent_loop import Agent
from streams.agents.once import handled_once
from streams.agents.protocols import Accept, GroupPositions, Trace, Transactions, noted
from streams.pace import WRITING

GROUP = "flywheel.evidence"
TOPICS = ("flywheel.traffic", "flywheel.labels", "flywheel.settled")


class EvidenceAgentTransaction(Protocol):
    """What one transaction of this agent offers."""

    @property
    def evidence_intake(self) -> EvidenceIntake:
        """Evidence, as written by this agent."""
        ...

    @property
    def positions(self) -> GroupPositions:
        """How far groups are."""
        ...


def agent(db: Transactions[EvidenceAgentTransaction], accept: Accept | None = None) -> Agent:
    """The agent that gathers evidence on releases."""

    return Agent(GROUP, TOPICS, handled_once(db, GROUP, _record, accept), noted(db), WRITING)


def trace(event: Event) -> Trace | None:
    """Where this agent's effect of an event is found, if it has one."""
    if is_answer(event):
        live = isinstance(event, TrafficRecorded)
        return Trace("unscored", (event.task, event.sample_id, event.release, live))
    if is_truth(event):
        source = event.source if isinstance(event, LabelRecorded) else "expert"
        return Trace("unproved", (event.task, event.sample_id, source))
    return None


def _record(tx: EvidenceAgentTransaction, events: Sequence[Event]) -> None:
    tx.evidence_intake.record(events)
