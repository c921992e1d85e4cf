"""What agents need of a database, beyond what the stages' ports say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from flywheel.contracts.events import Event
from flywheel.contracts.positions import Handled
from flywheel.errors import RejectedEvent
from streams.batches import RejectedEvents

T_co = TypeVar("T_co", covariant=True)


class Trace(NamedTuple):
    """Where the effect of an event is found: which of the database's checks knows it, by which
    key."""

    check: Literal["unkept_traffic", "unkept_labels", "unqueued", "unended", "unscored", "unproved"]
    key: tuple[Any, ...]


class GroupPositions(Protocol):
    """How far consumer groups are, as the database says."""

    def note(self, group: str, handled: Sequence[Handled]) -> None:
        """The group has handled these."""
        ...


class PositionsTransaction(Protocol):
    """A transaction that notes how far a group is."""

    @property
    def positions(self) -> GroupPositions:
        """How far groups are."""
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


def first_of_each(events: Sequence[Event]) -> list[Event]:
    """The events in order; one that a batch holds twice comes once."""
    return list({event.event_id: event for event in reversed(events)}.values())[::-1]


def noted(db: Transactions[PositionsTransaction]) -> Callable[[str, Sequence[Handled]], None]:
    """What notes, in a transaction of its own, how far a group is: where more was to be done than
    to commit effects."""

    def note(group: str, handled: Sequence[Handled]) -> None:
        with db.transaction() as tx:
            tx.positions.note(group, handled)

    return note
