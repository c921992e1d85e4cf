"""Events to records and back: JSON bytes, schema name and version in one header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from flywheel.contracts.events import EVENTS, Event, EventSpec
from flywheel.errors import MalformedEvent, UnknownEvent

SCHEMA_HEADER = "schema"

_by_type: dict[type[Event], EventSpec] = {spec.type: spec for spec in EVENTS}
_by_schema: dict[str, EventSpec] = {f"{spec.schema}/{spec.version}": spec for spec in EVENTS}
_names = {spec.schema for spec in EVENTS}
_decoders = {spec.type: msgspec.json.Decoder(spec.type) for spec in EVENTS}
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record as bytes: what a publisher sends."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def encode(event: Event) -> Record:
    """The record of an event, with its topic and key from the table in ``contracts.events``."""
    spec = _by_type[type(event)]
    return Record(
        topic=spec.topic,
        key=spec.key(event).encode(),
        value=_encoder.encode(event),
        headers=((SCHEMA_HEADER, f"{spec.schema}/{spec.version}".encode()),),
    )


def decode(value: bytes | None, headers: Mapping[str, bytes | str]) -> Event:
    """The event in a record's ``value``. Fields that this version does not know are ignored.

    Raises MalformedEvent when the header is missing or the bytes are not that event, and
    UnknownEvent for a schema or a major version that this version does not know.
    """
    raw = headers.get(SCHEMA_HEADER)
    if raw is None:
        raise MalformedEvent(f"the record has no {SCHEMA_HEADER!r} header: not written by Flywheel")
    schema = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    spec = _by_schema.get(schema)
    if spec is None:
        name = schema.partition("/")[0]
        hint = "a newer version wrote it: upgrade" if name in _names else "no such event"
        raise UnknownEvent(f"schema {schema!r} is not known here ({hint})")
    if value is None:
        raise MalformedEvent(f"{schema}: the record has no value")
    try:
        return _decoders[spec.type].decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedEvent(f"{schema}: {error}") from error
