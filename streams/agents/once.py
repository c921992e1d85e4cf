"""What every database-writing agent does with a batch: each effect once, by its own key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from flywheel.contracts.events import Event
from flywheel.contracts.positions import Handled
from flywheel.errors import EventError
from streams.agents.protocols import (
    Accept,
    PositionsTransaction,
    Transactions,
    first_of_each,
    reject_foreign,
)
from streams.batches import Handle, RejectedEvents

T = TypeVar("T", bound=PositionsTransaction)


def handled_once(
    db: Transactions[T],
    group: str,
    effect: Callable[[T, Sequence[Event]], None],
    accept: Accept | None,
    refuse: Callable[[T, Sequence[Event]], Sequence[tuple[Event, EventError]]] | None = None,
) -> Handle:
    """A batch handler that sends nothing, and commits ``effect`` of the events with how far the
    ``group`` is then.

    A batch may come again, and an event at two places of the log: ``effect`` must change nothing
    that it has changed before. Foreign events are refused before any effect, and so is what
    ``refuse`` finds in the whole batch: an event that was handled before may come again under its
    id and say something else.
    """

    def handle(events: Sequence[Event], handled: Sequence[Handled] = ()) -> Sequence[Event]:
        reject_foreign(accept, events)
        with db.transaction() as tx:
            refused = refuse(tx, events) if refuse is not None else ()
            if refused:
                raise RejectedEvents(refused)
            effect(tx, first_of_each(events))
            if handled:
                tx.positions.note(group, handled)
        return []

    return handle
