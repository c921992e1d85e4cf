"""Triage: traffic in, auto-labels and review requests out; Kafka to Kafka, no database."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flywheel.contracts.events import Event, TrafficRecorded
from flywheel.contracts.positions import Handled
from streams.agent_loop import Agent
from streams.agents.protocols import Accept, reject_foreign

GROUP = "flywheel.triage"
TOPICS = ("flywheel.traffic",)


def agent(
    triager: Callable[[Sequence[Event]], Sequence[Event]], accept: Accept | None = None
) -> Agent:
    """Hand each batch of TrafficRecorded to ``triager`` and send what it returns.

    A batch may come again after a crash, with events in other company: what ``triager`` makes of
    an event, event ids included, must depend on that event alone, or doubles would count twice.
    """

    def handle(events: Sequence[Event], _: Sequence[Handled] = ()) -> Sequence[Event]:
        reject_foreign(accept, events)
        traffic = [event for event in events if isinstance(event, TrafficRecorded)]
        return triager(traffic) if traffic else []

    return Agent(GROUP, TOPICS, handle)
