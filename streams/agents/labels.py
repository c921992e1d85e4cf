"""Labels: keeps samples, labels and settlements, and feeds the feature history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from flywheel.contracts.events import Event
from flywheel.datasets.ports import LabelIntake
from streams.agents.inputs import with_other_inputs
from streams.agents.once import handled_once
from streams.agents.protocols import Accept, HandledEvents, Transactions
from streams.boundary import Agent

GROUP = "flywheel.labels"
TOPICS = ("flywheel.labels", "flywheel.settled", "flywheel.traffic")


class LabelAgentTransaction(Protocol):
    """What one transaction of this agent offers."""

    @property
    def label_intake(self) -> LabelIntake:
        """Samples and labels, as written by this agent."""
        ...

    @property
    def seen(self) -> HandledEvents:
        """Events handled before."""
        ...


def agent(
    db: Transactions[LabelAgentTransaction],
    features: Callable[[Sequence[Event]], None] | None = None,
    accept: Accept | None = None,
) -> Agent:
    """The agent that keeps samples and labels.

    ``features`` gets each batch after its transaction, as it was delivered: after a crash it may
    meet events again that it had, so it must write what the database says, not add up.
    """

    keep = handled_once(
        db, GROUP, _keep, accept, lambda tx, events: with_other_inputs(tx.label_intake, events)
    )

    def handle(events: Sequence[Event]) -> Sequence[Event]:
        sent = keep(events)
        if features is not None:
            features(events)
        return sent

    return Agent(GROUP, TOPICS, handle)


def _keep(tx: LabelAgentTransaction, events: Sequence[Event]) -> None:
    tx.label_intake.record(events)
