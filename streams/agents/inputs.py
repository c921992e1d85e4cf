"""A sample has one input: an event that gives it another cannot be used."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from flywheel.contracts.events import Event, ReviewRequested, TrafficRecorded
from flywheel.contracts.sample import Content, same_content
from flywheel.errors import EventError, RejectedEvent

Sample = tuple[str, str]
_NUL, _STORED_NUL = "\x00", "\ufffd"


class Inputs(Protocol):
    """The inputs of samples, as they were first recorded."""

    def inputs(self, samples: Collection[Sample]) -> Mapping[Sample, Content]:
        """(task, sample) → its input, of those that are known."""
        ...


def with_other_inputs(known: Inputs, events: Sequence[Event]) -> list[tuple[Event, EventError]]:
    """The events whose sample has another input (``contracts.sample``), with the reason.

    Of two in one batch the earlier one gives the sample its input.
    """
    carrying = [event for event in events if isinstance(event, TrafficRecorded | ReviewRequested)]
    inputs = dict(known.inputs({(event.task, event.sample_id) for event in carrying}))
    odd: list[tuple[Event, EventError]] = []
    for event in sorted(carrying, key=lambda one: (one.occurred_at, one.event_id)):
        content = event.content
        if isinstance(content, str):
            content = content.replace(_NUL, _STORED_NUL)
        if not same_content(inputs.setdefault((event.task, event.sample_id), content), content):
            odd.append(
                (
                    event,
                    RejectedEvent(
                        f"sample {event.sample_id!r} of task {event.task!r} has another text "
                        "already: an id names one text"
                    ),
                )
            )
    return odd
