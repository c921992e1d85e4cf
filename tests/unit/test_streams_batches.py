"""A batch through a handler: events at fault are found, no other is lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.events import Event, TrafficRecorded
from flywheel.errors import (
    BrokerError,
    ConfigurationError,
    EventError,
    RejectedEvent,
    StorageError,
)
from streams.batches import RejectedEvents, handle_batch


def event(number: int) -> TrafficRecorded:
    return TrafficRecorded(
        event_id=str(number),
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        task="t",
        sample_id=str(number),
        content="",
    )


class Sink:
    """All or nothing, idempotent by event id, like a transaction; refuses some events."""

    def __init__(self, bad: set[int], error: Exception) -> None:
        self.bad = {str(number) for number in bad}
        self.error = error
        self.stored: set[str] = set()
        self.calls = 0

    def __call__(self, events: Sequence[Event]) -> Sequence[Event]:
        self.calls += 1
        if any(event.event_id in self.bad for event in events):
            raise self.error
        self.stored |= {event.event_id for event in events}
        return events


FAULTS = [ValueError("odd"), KeyError("gone"), TypeError("what"), RejectedEvent("no such task")]


@given(size=st.integers(0, 70), bad=st.sets(st.integers(0, 69)), fault=st.sampled_from(FAULTS))
def test_bad_events_are_isolated_and_all_others_handled(
    size: int, bad: set[int], fault: Exception
) -> None:
    sink = Sink(bad, fault)
    outcome = handle_batch(sink, [event(number) for number in range(size)])
    expected_bad = [str(number) for number in range(size) if number in bad]
    expected_good = [str(number) for number in range(size) if number not in bad]
    assert [bad_event.event_id for bad_event, _ in outcome.rejected] == expected_bad
    assert [produced.event_id for produced in outcome.produced] == expected_good
    assert sink.stored == set(expected_good)
    assert all(isinstance(reason, EventError) for _, reason in outcome.rejected)


@given(size=st.integers(1, 50), bad=st.sets(st.integers(0, 49)))
def test_verdicts_of_the_handler_are_taken_and_the_rest_handled(size: int, bad: set[int]) -> None:
    def handle(events: Sequence[Event]) -> Sequence[Event]:
        verdicts = [(e, RejectedEvent("no")) for e in events if int(e.event_id) in bad]
        if verdicts:
            raise RejectedEvents(verdicts)
        return events

    outcome = handle_batch(handle, [event(number) for number in range(size)])
    assert {int(e.event_id) for e, _ in outcome.rejected} == bad & set(range(size))
    assert {int(e.event_id) for e in outcome.produced} == set(range(size)) - bad


@pytest.mark.parametrize(
    "error",
    [StorageError("down"), BrokerError("down"), ConfigurationError("a.b", "bad")],
    ids=lambda error: error.code,
)
def test_what_is_no_events_fault_is_raised(error: Exception) -> None:
    sink = Sink({1}, error)
    with pytest.raises(type(error)):
        handle_batch(sink, [event(0), event(1)])
    assert not sink.stored


@pytest.mark.parametrize("bug", [AttributeError("bug"), NameError("bug"), MemoryError()])
def test_a_bug_costs_no_event(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        handle_batch(Sink({0}, bug), [event(0)])


@given(size=st.integers(20, 60), poison=st.sets(st.integers(0, 19), max_size=2))
def test_events_that_the_database_keeps_refusing_are_found(size: int, poison: set[int]) -> None:
    sink = Sink(poison, StorageError("invalid byte sequence"))
    outcome = handle_batch(sink, [event(n) for n in range(size)], suspicious=True)
    assert {int(e.event_id) for e, _ in outcome.rejected} == poison
    assert sink.stored == {str(n) for n in set(range(size)) - poison}


def test_a_database_that_breaks_during_the_search_dead_letters_nothing() -> None:
    calls = 0

    def handle(events: Sequence[Event]) -> Sequence[Event]:
        nonlocal calls
        calls += 1
        if calls > 4 or any(e.event_id == "7" for e in events):
            raise StorageError("refused")
        return events

    with pytest.raises(StorageError):
        handle_batch(handle, [event(n) for n in range(16)], suspicious=True)


@given(size=st.integers(1, 40))
def test_a_broken_database_dead_letters_nothing(size: int) -> None:
    sink = Sink(set(range(size)), StorageError("connection refused"))
    with pytest.raises(StorageError):
        handle_batch(sink, [event(n) for n in range(size)], suspicious=True)
    assert sink.calls <= 9  # one for the batch, a few to make sure: it is not hammered


def test_a_verdict_on_a_foreign_event_is_a_bug() -> None:
    def handle(events: Sequence[Event]) -> Sequence[Event]:
        raise RejectedEvents([(event(99), RejectedEvent("no"))])

    with pytest.raises(RuntimeError, match="not in its batch"):
        handle_batch(handle, [event(0)])
