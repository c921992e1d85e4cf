"""One batch through one agent: handle it whole, or find the events that spoil it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flywheel.contracts.events import Event
from flywheel.errors import EventError, FlywheelError, RejectedEvent, StorageError

Handle = Callable[[Sequence[Event]], Sequence[Event]]

# What a single odd event provokes in code that is otherwise right. Anything else (a bug's
# AttributeError, no memory, a bad configuration) is no event's fault and must not cost events.
DATA_ERRORS = (ValueError, KeyError, TypeError, IndexError, ArithmeticError)


class RejectedEvents(Exception):
    """Raised by a handler, before any effect: these events cannot be used, handle the others."""

    def __init__(self, rejected: Sequence[tuple[Event, EventError]]) -> None:
        self.rejected = list(rejected)
        super().__init__(f"{len(self.rejected)} event(s) rejected")


@dataclass(slots=True)
class Outcome:
    """What came of a batch: events to send, and those to dead-letter with the reason."""

    produced: list[Event] = field(default_factory=list)
    rejected: list[tuple[Event, EventError]] = field(default_factory=list)


def handle_batch(handle: Handle, events: Sequence[Event], *, suspicious: bool = False) -> Outcome:
    """Handle all events, isolating those that make ``handle`` fail by halving the batch.

    ``handle`` may be called several times, on parts of the batch: it must be all or nothing, and
    idempotent by event id. A retryable error is raised as it is, unless ``suspicious``: then a
    batch that the database keeps refusing is searched for the one event it refuses, which is
    rejected only if the database takes others meanwhile. Whatever is no event's fault is raised.
    """
    if not events:
        return Outcome()
    try:
        return Outcome(produced=list(handle(events)))
    except RejectedEvents as verdict:
        named = {id(event) for event, _ in verdict.rejected}
        others = [event for event in events if id(event) not in named]
        if len(others) == len(events):
            raise RuntimeError("the handler rejected events that are not in its batch") from verdict
        rest = handle_batch(handle, others, suspicious=suspicious)
        return Outcome(rest.produced, [*verdict.rejected, *rest.rejected])
    except EventError as error:
        return _halve(handle, events, error, suspicious)
    except FlywheelError as error:
        if suspicious and isinstance(error, StorageError):
            return _search(handle, events, error)
        raise
    except DATA_ERRORS as error:
        return _halve(handle, events, error, suspicious)


def _halve(handle: Handle, events: Sequence[Event], error: Exception, suspicious: bool) -> Outcome:
    if len(events) == 1:
        return Outcome(rejected=[(events[0], _verdict(error))])
    middle = len(events) // 2
    first = handle_batch(handle, events[:middle], suspicious=suspicious)
    second = handle_batch(handle, events[middle:], suspicious=suspicious)
    return Outcome(first.produced + second.produced, first.rejected + second.rejected)


def _search(handle: Handle, events: Sequence[Event], error: StorageError) -> Outcome:
    """Halve while either half gets through; when none does, the database is what is broken."""
    if len(events) == 1:
        raise error
    middle = len(events) // 2
    outcome, refused = Outcome(), []
    for half in (events[:middle], events[middle:]):
        try:
            part = handle_batch(handle, half, suspicious=True)
        except StorageError as problem:
            refused.append((half, problem))
            continue
        outcome.produced += part.produced
        outcome.rejected += part.rejected
    if len(refused) == 2 or any(len(half) > 1 for half, _ in refused):
        raise error
    outcome.rejected += [(half[0], _verdict(problem)) for half, problem in refused]
    return outcome


def _verdict(error: Exception) -> EventError:
    if isinstance(error, EventError):
        return error
    return RejectedEvent(f"{type(error).__name__}: {error}")
