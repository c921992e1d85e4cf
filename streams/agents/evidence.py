"""Evidence: what each arm of a rollout answered, beside what turned out to be true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flywheel.contracts.events import (
    Event,
    LabelRecorded,
    LabelSettled,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.rollout.ports import EvidenceIntake
from streams.agents.protocols import Accept, Seen, Transactions, first_of_each, reject_foreign
from streams.boundary import Agent

GROUP = "flywheel.evidence"
TOPICS = ("flywheel.traffic", "flywheel.labels", "flywheel.settled")

# A model's or a rule's own labels prove nothing about a model; experts speak by LabelSettled.
_TRUTH = frozenset({"user", "outcome", "seed"})


class EvidenceAgentTransaction(Protocol):
    """What one transaction of this agent offers."""

    @property
    def evidence_intake(self) -> EvidenceIntake:
        """Evidence, as written by this agent."""
        ...

    @property
    def seen(self) -> Seen:
        """Events handled before."""
        ...


def agent(db: Transactions[EvidenceAgentTransaction], accept: Accept | None = None) -> Agent:
    """The agent that gathers evidence on releases."""

    def handle(events: Sequence[Event]) -> Sequence[Event]:
        reject_foreign(accept, events)
        with db.transaction() as tx:
            unseen = tx.seen.unseen(GROUP, [event.event_id for event in events])
            fresh = first_of_each(events, unseen)
            if fresh:
                _record(tx.evidence_intake, fresh)
                tx.seen.add(GROUP, [event.event_id for event in fresh])
        return []

    return Agent(GROUP, TOPICS, handle)


def _record(intake: EvidenceIntake, events: Sequence[Event]) -> None:
    if traffic := [event for event in events if isinstance(event, TrafficRecorded)]:
        intake.record_traffic(traffic)
    if shadow := [event for event in events if isinstance(event, ShadowRecorded)]:
        intake.record_shadow(shadow)
    labels = [
        event
        for event in events
        if isinstance(event, LabelSettled)
        or (isinstance(event, LabelRecorded) and event.source in _TRUTH)
    ]
    if labels:
        intake.record_labels(labels)
