"""What every database-writing agent does with a batch: each effect once, by event id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from flywheel.contracts.events import Event
from flywheel.errors import EventError
from streams.agents.protocols import (
    Accept,
    HandledEvents,
    Transactions,
    first_of_each,
    reject_foreign,
)
from streams.batches import Handle, RejectedEvents


class SeenTransaction(Protocol):
    """A transaction that knows which events were handled before."""

    @property
    def seen(self) -> HandledEvents:
        """Events handled before."""
        ...


T = TypeVar("T", bound=SeenTransaction)


def handled_once(
    db: Transactions[T],
    group: str,
    effect: Callable[[T, Sequence[Event]], None],
    accept: Accept | None,
    refuse: Callable[[T, Sequence[Event]], Sequence[tuple[Event, EventError]]] | None = None,
) -> Handle:
    """A batch handler that sends nothing and commits, together with their ids, ``effect`` of the
    events that ``group`` has not handled.

    Foreign events are refused before any effect, and so is what ``refuse`` finds in the whole
    batch: an event that was handled before may come again under its id and say something else.
    """

    def handle(events: Sequence[Event]) -> Sequence[Event]:
        reject_foreign(accept, events)
        with db.transaction() as tx:
            refused = refuse(tx, events) if refuse is not None else ()
            if refused:
                raise RejectedEvents(refused)
            unseen = tx.seen.unseen(group, [event.event_id for event in events])
            fresh = first_of_each(events, unseen)
            if fresh:
                effect(tx, fresh)
                tx.seen.add(group, [event.event_id for event in fresh])
        return []

    return handle
