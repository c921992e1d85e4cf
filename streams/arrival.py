"""A writer's clock, bounded by the broker's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from flywheel.contracts.events import Event

# Kafka's number for records that the broker dated when it appended them.
_LOG_APPEND_TIME = 1


def no_later_than_arrival(event: Event, record: Any) -> Event:
    """The event, dated no later than its record came to the broker.

    A clock that runs ahead would put what it writes after all that comes later. The broker's time
    is the same however late, and however often, a record is read; topics where writers date
    records themselves, of another cluster or an earlier version, are bounded when they are stored.
    """
    if getattr(record, "timestamp_type", None) != _LOG_APPEND_TIME:
        return event
    # The broker counts milliseconds: what was written within the one is not ahead of it.
    if event.occurred_at.timestamp() <= _seconds(record):
        return event
    arrived = datetime.fromtimestamp(_seconds(record), UTC) + timedelta(milliseconds=1)
    if event.occurred_at <= arrived:
        return event
    return msgspec.structs.replace(event, occurred_at=arrived)


def _seconds(record: Any) -> float:
    # Faust has seconds, the clients milliseconds.
    timestamp = float(record.timestamp)
    return timestamp / 1000 if timestamp > 1e11 else timestamp
