"""Events to records and back: JSON bytes, schema name and version in one header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from flywheel.contracts.bounds import bounds_problem
from flywheel.contracts.events import EVENTS, TOPICS, Event, EventSpec
from flywheel.contracts.upcast import upcast
from flywheel.errors import MalformedEvent, UnknownEvent

SCHEMA_HEADER = "schema"

_by_type: dict[type[Event], EventSpec] = {spec.type: spec for spec in EVENTS}
# With those of before: they become today's by ``contracts.upcast``.
_by_schema: dict[str, tuple[EventSpec, int]] = {
    f"{spec.schema}/{version}": (spec, version)
    for spec in EVENTS
    for version in range(1, spec.version + 1)
}
_names = {spec.schema for spec in EVENTS}
_decoders = {spec.type: msgspec.json.Decoder(spec.type) for spec in EVENTS}
_encoder = msgspec.json.Encoder()
# How much of a schema nobody knows a message repeats.
_SHOWN = 100
# Room for a record's key, its header and what Kafka adds to them.
_ENVELOPE_BYTES = 4096
_limits = {topic.name: topic.max_bytes - _ENVELOPE_BYTES for topic in TOPICS}


class _Identity(msgspec.Struct):
    event_id: str


_identity = msgspec.json.Decoder(_Identity)


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record as bytes: what a publisher sends. Flywheel's own always have a key, a value
    and their headers; what is replayed is sent as it was."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def encode(event: Event) -> Record:
    """The record of an event, with its topic and key from the table in ``contracts.events``.

    Raises MalformedEvent for an event that ``decode`` would not take, or its topic.
    """
    spec = _by_type[type(event)]
    try:
        value = _encoder.encode(event)
    except (UnicodeEncodeError, ValueError, OverflowError) as error:
        raise MalformedEvent(f"{spec.schema}: {error}") from error
    if len(value) > _limits[spec.topic]:
        raise MalformedEvent(
            f"{spec.schema}: {len(value)} bytes; {spec.topic} takes {_limits[spec.topic]}"
        )
    # What is sent must not become a dead letter afterwards: one check for both ways.
    _decoded(spec, value)
    return Record(
        topic=spec.topic,
        key=spec.key(event).encode(),
        value=value,
        headers=((SCHEMA_HEADER, f"{spec.schema}/{spec.version}".encode()),),
    )


def decode(value: bytes | None, headers: Mapping[str, bytes | str | None]) -> Event:
    """The event in a record's ``value``, of whatever version it was written in up to this one.
    Fields that this version does not know are ignored.

    Raises MalformedEvent when the header is missing or the bytes are not that event within the
    bounds of ``contracts.bounds``, and UnknownEvent for a schema or a major version that this
    version does not know. No bytes make it raise anything else.
    """
    raw = headers.get(SCHEMA_HEADER)
    if raw is None:
        raise MalformedEvent(f"the record has no {SCHEMA_HEADER!r} header: not written by Flywheel")
    schema = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    spec, version = _by_schema.get(schema, (None, 0))
    if spec is None:
        name = schema.partition("/")[0]
        hint = "a newer version wrote it: upgrade" if name in _names else "no such event"
        raise UnknownEvent(f"schema {schema[:_SHOWN]!r} is not known here ({hint})")
    if value is None:
        raise MalformedEvent(f"{schema}: the record has no value")
    if version < spec.version:
        return _decoded_earlier(spec, version, value)
    return _decoded(spec, value)


def event_id_in(value: bytes | None) -> str | None:
    """The id of the event in ``value`` where it can be told, within its bounds or not."""
    try:
        return _identity.decode(value or b"").event_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _decoded_earlier(spec: EventSpec, version: int, value: bytes) -> Event:
    try:
        fields = msgspec.json.decode(value)
        if not isinstance(fields, dict):
            raise MalformedEvent(f"{spec.schema}/{version}: expected an object")
        now = _encoder.encode(upcast(spec.schema, version, spec.version, fields))
    except RecursionError:
        raise MalformedEvent(f"{spec.schema}/{version}: nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeError, OverflowError) as error:
        raise MalformedEvent(f"{spec.schema}/{version}: {error}") from error
    return _decoded(spec, now)


def _decoded(spec: EventSpec, value: bytes) -> Event:
    try:
        event = _decoders[spec.type].decode(value)
    except RecursionError:
        # Also fields that are not known here are walked through, level by level.
        raise MalformedEvent(f"{spec.schema}: nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedEvent(f"{spec.schema}: {error}") from error
    problem = bounds_problem(event)
    if problem is not None:
        raise MalformedEvent(f"{spec.schema}: {problem}")
    return event
