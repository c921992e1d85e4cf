"""Dead letters: made by the boundary, listed and replayed by a person."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from flywheel.contracts.bounds import LONGEST_NAME
from flywheel.contracts.codec import Record, decode, encode
from flywheel.contracts.events import Cut, DeadLettered
from flywheel.contracts.ids import utc_now
from flywheel.contracts.publishing import Publisher
from flywheel.errors import EventError, MalformedEvent, RecordRefused
from streams.reading import read_topic

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

TOPIC = "flywheel.dead-letters"
# Tells a record that was replayed where it stood at first; what wrote the record never sets it.
ORIGIN_HEADER = "flywheel-origin"
Selection = Collection[str] | Callable[[DeadLettered], bool] | None
Headers = tuple[tuple[str, bytes | None], ...]

# What a letter keeps of a record that it cannot carry whole; of headers, as they are in JSON.
_KEPT_BYTES = 64 << 10
_KEPT_KEY_BYTES = 1024
_KEPT_HEADERS = 1000
# Letters that are sent and then marked together in a replay.
_BATCH = 100
_LONGEST_REASON = 2_000


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of a replay: records sent, letters that do not hold their record whole, and
    letters whose record Kafka refused, with the reason."""

    sent: int
    cut: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def letter_of(message: Any, group: str, error: EventError, task: str) -> DeadLettered:
    """The dead letter of a record as a Kafka client gave it; always one that its topic takes. Its
    id depends on where the record is and on the group alone, so a record delivered twice makes
    one letter."""
    place = f"{message.topic}/{message.partition}/{message.offset}"
    headers: Headers = tuple(message.headers or ())
    letter = DeadLettered(
        event_id=_stable_id(f"{group}/{place}", message.timestamp),
        occurred_at=utc_now(),
        task=task,
        source_topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        group=group,
        code=error.code,
        reason=_shortened(str(error)),
        key=message.key,
        value=message.value,
        record_headers=headers,
        origin=_origin_in(headers, message.topic) or place,
    )
    return letter if _is_taken(letter) else _cut(letter)


def letter_of_refused(record: Record, group: str, reason: str) -> DeadLettered:
    """The dead letter of a record that Kafka did not take from ``group``. It stands nowhere in the
    log, so its id and its origin are what it holds; replayed, it goes where it was to go.

    A letter that is refused itself becomes one that keeps little of its record. Raises
    RecordRefused when that is refused too.
    """
    digest = hashlib.sha256(b"\x1f".join((record.key or b"", record.value or b"")))
    if record.topic == TOPIC:
        letter = decode(record.value, dict(record.headers))
        if not isinstance(letter, DeadLettered) or letter.cut is not None:
            raise RecordRefused(f"not even a short dead letter is taken: {reason}")
        return _cut(letter)
    now = utc_now()
    letter = DeadLettered(
        event_id=_stable_id(f"{group}/{record.topic}/{digest.hexdigest()}", 0.0),
        occurred_at=now,
        task="",
        source_topic=record.topic,
        partition=0,
        offset=0,
        group=group,
        code=RecordRefused.code,
        reason=_shortened(f"Kafka takes no such record: {reason}"),
        key=record.key,
        value=record.value,
        record_headers=tuple(record.headers),
        origin=f"{record.topic}/refused/{digest.hexdigest()[:32]}",
    )
    return letter if _is_taken(letter) else _cut(letter)


def record_of_letter(letter: DeadLettered) -> Record:
    """The record that writes a letter; of one that still cannot be written, where its record is
    and its code: a letter that is not written would stop its agent for ever."""
    try:
        return encode(letter)
    except MalformedEvent as error:
        bare = msgspec.structs.replace(
            _cut(letter),
            task="",
            reason=_shortened(f"the letter cannot be written: {error}"),
            key=None,
            value=None,
            headers={},
            record_headers=None,
            origin="",
        )
        return encode(bare)


def all_letters(kafka: KafkaSettings) -> list[DeadLettered]:
    """Every dead letter there is, oldest first, each once and as it stands now."""
    letters: dict[str, DeadLettered] = {}
    for record in read_topic(kafka, TOPIC):
        try:
            event = decode(record.value, dict(record.headers))
        except EventError:
            continue  # not written by us; there is nothing to show or to replay
        if isinstance(event, DeadLettered):
            known = letters.get(event.event_id)
            if known is None or event.replayed_at is not None or known.replayed_at is None:
                letters[event.event_id] = event
    return list(letters.values())


def list_dead_letters(kafka: KafkaSettings, limit: int = 100) -> list[DeadLettered]:
    """The newest dead letters that wait for someone, newest first.

    One that was replayed waits no more. A record that failed again has one letter a group, the
    latest, however often it was replayed.
    """
    return _waiting(all_letters(kafka))[::-1][:limit]


def replay(kafka: KafkaSettings, publisher: Publisher, selection: Selection = None) -> Replay:
    """Publish the records of dead letters again where they came from.

    ``selection``: event ids of letters, a predicate, or None for all. Every group of the topic
    meets the record again; those that had handled it know it by its event id. Only letters that
    wait are sent, so that a replay which is repeated sends nothing: what was sent is marked as
    replayed after the broker has it, some letters at a time. Interrupted in between, a record may
    go twice, and if it fails again its letters replace one another. A record that Kafka refuses
    stays as it is, and the others go on. Raises BrokerError when Kafka does not answer.
    """
    waiting = _waiting(all_letters(kafka))
    chosen = [letter for letter in waiting if _selected(letter, selection)]
    # Several groups may have refused the same record: it goes back once.
    whole = list({origin_of(letter): letter for letter in chosen if letter.cut is None}.values())
    refused: dict[str, str] = {}
    for start in range(0, len(whole), _BATCH):
        batch = whole[start : start + _BATCH]
        reasons = _send(publisher, batch)
        refused |= reasons
        sent = {origin_of(letter) for letter in batch if letter.event_id not in reasons}
        _mark(publisher, [letter for letter in waiting if origin_of(letter) in sent])
    cut = tuple(letter.event_id for letter in chosen if letter.cut is not None)
    return Replay(len(whole) - len(refused), cut, refused)


def origin_of(letter: DeadLettered) -> str:
    """Where the letter's record stood at first: topic, partition and offset."""
    return letter.origin or f"{letter.source_topic}/{letter.partition}/{letter.offset}"


def _waiting(letters: Iterable[DeadLettered]) -> list[DeadLettered]:
    """Those that were not replayed, in their order: of each record and group the latest."""
    newest: dict[tuple[str, str], DeadLettered] = {}
    for letter in letters:
        record = (letter.group, origin_of(letter))
        newest.pop(record, None)
        newest[record] = letter
    return [letter for letter in newest.values() if letter.replayed_at is None]


def _selected(letter: DeadLettered, selection: Selection) -> bool:
    if selection is None:
        return True
    return selection(letter) if callable(selection) else letter.event_id in selection


def _send(publisher: Publisher, letters: Iterable[DeadLettered]) -> dict[str, str]:
    """Publish the letters' records; of those refused, the letter's id and the reason."""
    records = {letter.event_id: _record_of(letter) for letter in letters}
    refused = _refused_of(publisher, records)
    # At its topic's limit, a record has no room for the header that a replay adds.
    bare = {event_id: _without_origin(records[event_id]) for event_id in refused}
    return _refused_of(publisher, bare) if bare else {}


def _refused_of(publisher: Publisher, records: Mapping[str, Record]) -> dict[str, str]:
    """Publish the records, by the ids of their letters; those that Kafka takes not even alone."""
    try:
        publisher.publish_records(list(records.values()))
    except RecordRefused as error:
        if not error.refused:
            raise
        event_ids = list(records)
        return {event_ids[number]: reason for number, reason in error.refused.items()}
    return {}


def _mark(publisher: Publisher, letters: Iterable[DeadLettered]) -> None:
    """Say of letters that their records went back."""
    now = utc_now()
    publisher.publish(
        [
            msgspec.structs.replace(
                letter, key=None, value=None, headers={}, record_headers=None, replayed_at=now
            )
            for letter in letters
        ]
    )


def _without_origin(record: Record) -> Record:
    headers = tuple(header for header in record.headers if header[0] != ORIGIN_HEADER)
    return replace(record, headers=headers)


def _record_of(letter: DeadLettered) -> Record:
    # Letters of earlier versions: Latin-1 maps every byte to one character and back.
    headers: Headers = letter.record_headers or tuple(
        (name, text.encode("latin-1")) for name, text in letter.headers.items()
    )
    origin = (ORIGIN_HEADER, origin_of(letter).encode())
    record = _without_origin(Record(letter.source_topic, letter.key, letter.value, headers))
    return replace(record, headers=(*record.headers, origin))


def _is_taken(letter: DeadLettered) -> bool:
    try:
        encode(letter)
    except MalformedEvent:
        return False
    return True


def _cut(letter: DeadLettered) -> DeadLettered:
    """The letter with what always fits of its record."""
    value, headers = letter.value or b"", letter.record_headers or ()
    kept = _kept(headers)
    return msgspec.structs.replace(
        letter,
        key=(letter.key or b"")[:_KEPT_KEY_BYTES],
        value=value[:_KEPT_BYTES],
        record_headers=kept,
        cut=letter.cut
        or Cut(
            value_bytes=len(value),
            value_sha256=hashlib.sha256(value).hexdigest(),
            headers_dropped=len(headers) - len(kept),
        ),
    )


def _kept(headers: Headers) -> Headers:
    """The first of the headers, as many as a letter that is cut has room for."""
    room = _KEPT_BYTES
    for count, header in enumerate(headers[:_KEPT_HEADERS]):
        try:
            room -= len(msgspec.json.encode(header))
        except UnicodeEncodeError:
            return headers[:count]
        if room < 0:
            return headers[:count]
    return headers[:_KEPT_HEADERS]


def _origin_in(headers: Headers, topic: str) -> str | None:
    """The origin that a replay gave a record, or None; anyone can write a header."""
    origin = next((content for name, content in headers if name == ORIGIN_HEADER), None)
    text = (origin or b"").decode("ascii", errors="replace")
    sound = text.startswith(f"{topic}/") and len(text) <= LONGEST_NAME and text.isprintable()
    return text if sound else None


def _shortened(reason: str) -> str:
    # Half of a surrogate pair, which an error may repeat, cannot be written.
    reason = reason.encode(errors="replace").decode()
    return reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + "…"


def _stable_id(where: str, timestamp: float | None) -> str:
    """A UUIDv7 whose random bits are a hash: same place and time, same id."""
    milliseconds = int((timestamp or 0.0) * 1000)
    digest = int.from_bytes(hashlib.blake2b(where.encode(), digest_size=10).digest(), "big")
    bits = (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | (digest >> 68 & 0xFFF) << 64
    bits |= 0b10 << 62 | digest & (2**62 - 1)
    return str(uuid.UUID(int=bits))
