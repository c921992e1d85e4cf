"""A sample has one text: an event that gives it another cannot be used."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from flywheel.contracts.answers import same_text
from flywheel.contracts.events import Event, ReviewRequested, TrafficRecorded
from flywheel.errors import EventError, RejectedEvent

Sample = tuple[str, str]
_NUL, _STORED_NUL = "\x00", "\ufffd"


class Texts(Protocol):
    """The texts of samples, as they were first recorded."""

    def texts(self, samples: Collection[Sample]) -> Mapping[Sample, str]:
        """(task, sample) → its text, of those that are known."""
        ...


def with_other_texts(known: Texts, events: Sequence[Event]) -> list[tuple[Event, EventError]]:
    """The events whose sample has another text (``contracts.answers``), with the reason.

    Of two in one batch the earlier one gives the sample its text.
    """
    carrying = [event for event in events if isinstance(event, TrafficRecorded | ReviewRequested)]
    texts = dict(known.texts({(event.task, event.sample_id) for event in carrying}))
    odd: list[tuple[Event, EventError]] = []
    for event in sorted(carrying, key=lambda one: (one.occurred_at, one.event_id)):
        text = event.text.replace(_NUL, _STORED_NUL)
        if not same_text(texts.setdefault((event.task, event.sample_id), text), text):
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
