"""Labels: keeps samples, labels and settlements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flywheel.contracts.events import Event, LabelRecorded, LabelSettled, TrafficRecorded
from flywheel.datasets.ports import LabelIntake
from streams.agent_loop import Agent
from streams.agents.inputs import with_other_inputs
from streams.agents.once import handled_once
from streams.agents.protocols import Accept, GroupPositions, Trace, Transactions, noted
from streams.pace import WRITING

GROUP = "flywheel.labels"
TOPICS = ("flywheel.labels", "flywheel.settled", "flywheel.traffic")


class LabelAgentTransaction(Protocol):
    """What one transaction of this agent offers."""

    @property
    def label_intake(self) -> LabelIntake:
        """Samples and labels, as written by this agent."""
        ...

    @property
    def positions(self) -> GroupPositions:
        """How far groups are."""
        ...


def agent(db: Transactions[LabelAgentTransaction], accept: Accept | None = None) -> Agent:
    """The agent that keeps samples and labels."""

    keep = handled_once(
        db, GROUP, _keep, accept, lambda tx, events: with_other_inputs(tx.label_intake, events)
    )
    return Agent(GROUP, TOPICS, keep, noted(db), WRITING)


def trace(event: Event) -> Trace | None:
    """Where this agent's effect of an event is found, if it has one."""
    if isinstance(event, TrafficRecorded):
        return Trace("unkept_traffic", (event.event_id,))
    if isinstance(event, LabelRecorded | LabelSettled):
        return Trace("unkept_labels", (event.event_id,))
    return None


def _keep(tx: LabelAgentTransaction, events: Sequence[Event]) -> None:
    tx.label_intake.record(events)
