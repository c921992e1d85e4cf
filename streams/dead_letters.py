"""Dead letters: made by the boundary, listed and replayed by a person."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from flywheel.contracts.codec import Record, decode
from flywheel.contracts.events import DeadLettered
from flywheel.contracts.ids import utc_now
from flywheel.contracts.publishing import Publisher
from flywheel.errors import EventError
from streams.reading import read_topic

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

TOPIC = "flywheel.dead-letters"
Selection = Collection[str] | Callable[[DeadLettered], bool] | None


def letter_of(
    message: Any, headers: Mapping[str, bytes | str], group: str, error: EventError, task: str
) -> DeadLettered:
    """The dead letter of a record as a Kafka client gave it. Its id depends on where the record
    is and on the group alone, so a record delivered twice makes one letter."""
    where = f"{group}/{message.topic}/{message.partition}/{message.offset}"
    return DeadLettered(
        event_id=_stable_id(where, message.timestamp),
        occurred_at=utc_now(),
        task=task,
        source_topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        group=group,
        code=error.code,
        reason=str(error),
        key=message.key,
        value=message.value or b"",
        # Latin-1 maps every byte to one character and back: what comes out is what came in.
        headers={
            name: value.decode("latin-1") if isinstance(value, bytes) else value
            for name, value in headers.items()
        },
    )


def list_dead_letters(kafka: KafkaSettings, limit: int = 100) -> list[DeadLettered]:
    """The newest dead letters, newest first, each once."""
    letters: dict[str, DeadLettered] = {}
    for record in read_topic(kafka, TOPIC):
        try:
            event = decode(record.value, dict(record.headers))
        except EventError:
            continue  # not written by us; there is nothing to show or to replay
        if isinstance(event, DeadLettered):
            letters[event.event_id] = event
    return list(letters.values())[::-1][:limit]


def replay(kafka: KafkaSettings, publisher: Publisher, selection: Selection = None) -> int:
    """Publish the records of dead letters again where they came from; returns how many.

    ``selection``: event ids of letters, a predicate, or None for all. Every group of the topic
    meets the record again; those that had handled it know it by its event id.
    """
    everything = list_dead_letters(kafka, limit=10**9)
    if selection is None:
        chosen = everything
    elif callable(selection):
        chosen = [letter for letter in everything if selection(letter)]
    else:
        wanted = set(selection)
        chosen = [letter for letter in everything if letter.event_id in wanted]
    # Several groups may have refused the same record: it goes back once.
    records: dict[tuple[str, int, int], Record] = {}
    for letter in reversed(chosen):
        records[(letter.source_topic, letter.partition, letter.offset)] = Record(
            topic=letter.source_topic,
            key=letter.key or b"",
            value=letter.value,
            headers=tuple((name, text.encode("latin-1")) for name, text in letter.headers.items()),
        )
    publisher.publish_records(list(records.values()))
    return len(records)


def _stable_id(where: str, timestamp: float | None) -> str:
    """A UUIDv7 whose random bits are a hash: same place and time, same id."""
    milliseconds = int((timestamp or 0.0) * 1000)
    digest = int.from_bytes(hashlib.blake2b(where.encode(), digest_size=10).digest(), "big")
    bits = (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | (digest >> 68 & 0xFFF) << 64
    bits |= 0b10 << 62 | digest & (2**62 - 1)
    return str(uuid.UUID(int=bits))
