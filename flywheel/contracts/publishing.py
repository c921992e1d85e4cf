"""The publishing port: how a stage hands events to the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flywheel.contracts.codec import Record
from flywheel.contracts.events import Event


class Publisher(Protocol):
    """Sends events to Kafka; both methods return only when the broker has acknowledged all."""

    def publish(self, events: Sequence[Event]) -> None:
        """Send and wait. Raises BrokerError when an acknowledgement does not come in time."""
        ...

    def publish_records(self, records: Sequence[Record]) -> None:
        """The same for records that are encoded already (outbox, spill file, replay). Raises
        RecordRefused, a BrokerError, where the broker will never take one of them."""
        ...

    def close(self) -> None:
        """Flush and release the connection."""
        ...


class Outbox(Protocol):
    """Adds events to the database transaction that is open; a relay publishes them after it."""

    def add(self, events: Sequence[Event]) -> None:
        """Store the events beside the state that caused them."""
        ...
