"""Evidence: what each arm of a rollout answered, beside what turned out to be true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flywheel.contracts.events import Event
from flywheel.rollout.ports import EvidenceIntake
from streams.agents.once import handled_once
from streams.agents.protocols import Accept, HandledEvents, Transactions
from streams.boundary import Agent

GROUP = "flywheel.evidence"
TOPICS = ("flywheel.traffic", "flywheel.labels", "flywheel.settled")


class EvidenceAgentTransaction(Protocol):
    """What one transaction of this agent offers."""

    @property
    def evidence_intake(self) -> EvidenceIntake:
        """Evidence, as written by this agent."""
        ...

    @property
    def seen(self) -> HandledEvents:
        """Events handled before."""
        ...


def agent(db: Transactions[EvidenceAgentTransaction], accept: Accept | None = None) -> Agent:
    """The agent that gathers evidence on releases."""

    return Agent(GROUP, TOPICS, handled_once(db, GROUP, _record, accept))


def _record(tx: EvidenceAgentTransaction, events: Sequence[Event]) -> None:
    tx.evidence_intake.record(events)
