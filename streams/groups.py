"""Consumer groups as the broker knows them: whether it keeps their offsets, how far they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flywheel.errors import BrokerError
from streams.topics import BROKER_PATIENCE, admin_client

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings


def await_groups(
    kafka: KafkaSettings, groups: Sequence[str], patience: float = BROKER_PATIENCE
) -> None:
    """Return when the broker keeps offsets of these groups.

    One that has just begun makes the topic for them at the first question; clients that join a
    group meanwhile are refused, and log it as an error. Raises BrokerError after ``patience``
    seconds.
    """
    deadline = time.monotonic() + patience
    admin = admin_client(kafka)
    try:
        for group in groups:
            _offsets(admin, group, deadline)
    finally:
        admin.close()


def committed_offsets(
    kafka: KafkaSettings, group: str, patience: float = 30.0
) -> dict[tuple[str, int], int]:
    """(topic, partition) → the offset up to which a group has acknowledged."""
    admin = admin_client(kafka)
    try:
        committed = _offsets(admin, group, time.monotonic() + patience)
    finally:
        admin.close()
    return {(p.topic, p.partition): o.offset for p, o in committed.items() if o.offset >= 0}


def _offsets(admin: Any, group: str, deadline: float) -> dict[Any, Any]:
    """What the client says of a group, once the broker has an answer."""
    from kafka.errors import KafkaError

    while True:
        try:
            offsets: dict[Any, Any] = admin.list_group_offsets(group).get(group, {})
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise BrokerError(f"offsets of {group} cannot be read: {error}") from error
            time.sleep(0.2)
        else:
            return offsets
