"""One batch through one agent: handle it whole, or find the events that spoil it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from flywheel.contracts.events import Event
from flywheel.contracts.positions import Handled
from flywheel.errors import EventError, RejectedEvent, StorageError

T = TypeVar("T")

# What a single odd event provokes in code that is otherwise right. Anything else (a bug's
# AttributeError, no memory, a bad configuration) is no event's fault and must not cost events.
DATA_ERRORS = (ValueError, KeyError, TypeError, IndexError, ArithmeticError)

_WITNESSES = 8
# Records that an agent handles in one transaction, or not many more.
MOST_RECORDS = 2000


class Handle(Protocol):
    """What an agent does with events. ``handled`` says what of the log they are, where that may be
    noted with their effects."""

    def __call__(
        self, events: Sequence[Event], handled: Sequence[Handled] = (), /
    ) -> Sequence[Event]:
        """The events to send."""
        ...


class RejectedEvents(Exception):
    """Raised by a handler, before any effect: these events cannot be used, handle the others."""

    def __init__(self, rejected: Sequence[tuple[Event, EventError]]) -> None:
        self.rejected = list(rejected)
        super().__init__(f"{len(self.rejected)} event(s) rejected")


@dataclass(slots=True)
class Outcome(Generic[T]):
    """What came of a batch: what to send, and the events to dead-letter with the reason."""

    produced: list[T] = field(default_factory=list)
    rejected: list[tuple[Event, EventError]] = field(default_factory=list)


def handle_batch(
    handle: Callable[[Sequence[Event]], Sequence[T]],
    events: Sequence[Event],
    *,
    suspicious: bool = False,
) -> Outcome[T]:
    """Handle all events, isolating those that make ``handle`` fail by halving the batch.

    ``handle`` may be called several times, on parts of the batch: it must be all or nothing, and
    idempotent by event id. A retryable error is raised as it is, unless ``suspicious``: then a
    batch that the database keeps refusing is searched for the events it refuses, and these are
    rejected only if the database takes others meanwhile. Whatever is no event's fault is raised.
    """
    return _run(handle, events, suspicious, None)


def _run(
    handle: Callable[[Sequence[Event]], Sequence[T]],
    events: Sequence[Event],
    suspicious: bool,
    witness: Event | None,
) -> Outcome[T]:
    if not events:
        return Outcome()
    try:
        return Outcome(produced=list(handle(events)))
    except RejectedEvents as verdict:
        named = {id(event) for event, _ in verdict.rejected}
        others = [event for event in events if id(event) not in named]
        if len(others) == len(events):
            raise RuntimeError("the handler rejected events that are not in its batch") from verdict
        rest = _run(handle, others, suspicious, witness)
        return Outcome(rest.produced, [*verdict.rejected, *rest.rejected])
    except StorageError as error:
        if not suspicious:
            raise
        if witness is None:
            witness = _witness(handle, events)
        if witness is None:
            raise
        if len(events) == 1:
            handle([witness])  # raises if it is the database, by now, that is broken
        return _halve(handle, events, error, suspicious, witness)
    except (EventError, *DATA_ERRORS) as error:
        return _halve(handle, events, error, suspicious, witness)


def _halve(
    handle: Callable[[Sequence[Event]], Sequence[T]],
    events: Sequence[Event],
    error: Exception,
    suspicious: bool,
    witness: Event | None,
) -> Outcome[T]:
    if len(events) == 1:
        return Outcome(rejected=[(events[0], _verdict(error))])
    middle = len(events) // 2
    first = _run(handle, events[:middle], suspicious, witness)
    second = _run(handle, events[middle:], suspicious, witness)
    return Outcome(first.produced + second.produced, first.rejected + second.rejected)


def _witness(
    handle: Callable[[Sequence[Event]], Sequence[T]], events: Sequence[Event]
) -> Event | None:
    """An event of the batch that the database takes: proof that it works, for this batch."""
    for event in events[:: max(1, len(events) // _WITNESSES)][:_WITNESSES]:
        try:
            handle([event])
        except (StorageError, EventError, RejectedEvents, *DATA_ERRORS):
            continue
        return event
    return None


def _verdict(error: Exception) -> EventError:
    if isinstance(error, EventError):
        return error
    return RejectedEvent(f"{type(error).__name__}: {error}")
