"""What agents need of a database, beyond what the stages' ports say."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from flywheel.contracts.events import Event
from flywheel.errors import RejectedEvent
from streams.batches import RejectedEvents

T_co = TypeVar("T_co", covariant=True)


class HandledEvents(Protocol):
    """Event ids whose effects are in the database, by consumer group."""

    def unseen(self, group: str, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that this group has not handled."""
        ...

    def add(self, group: str, ids: Sequence[str]) -> None:
        """This transaction holds their effects."""
        ...


class Transactions(Protocol[T_co]):
    """A database: commits at the end of the block, rolls back when it raises."""

    def transaction(self, owner: str = "") -> AbstractContextManager[T_co]:
        """One transaction; ``owner`` names whose outbox its events go to."""
        ...


class Accept(Protocol):
    """Whether the configuration has a place for an event; raises RejectedEvent when not."""

    def __call__(self, event: Event, /) -> None:
        """Return for an event that can be used."""
        ...


def reject_foreign(accept: Accept | None, events: Sequence[Event]) -> None:
    """Raise RejectedEvents naming every event that ``accept`` refuses; before any effect."""
    if accept is None:
        return
    rejected: list[tuple[Event, RejectedEvent]] = []
    for event in events:
        try:
            accept(event)
        except RejectedEvent as error:
            rejected.append((event, error))
    if rejected:
        raise RejectedEvents(rejected)


def first_of_each(events: Sequence[Event], unseen: set[str]) -> list[Event]:
    """Events not handled before, in order; one that a batch holds twice comes once."""
    left = set(unseen)
    fresh: list[Event] = []
    for event in events:
        if event.event_id in left:
            left.remove(event.event_id)
            fresh.append(event)
    return fresh
