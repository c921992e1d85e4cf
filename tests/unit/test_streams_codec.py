"""Events to bytes and back, whatever they hold."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hostile_records import OUT_OF_BOUNDS, SOUND, document, named
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.codec import SCHEMA_HEADER, decode, encode, event_id_in
from flywheel.contracts.events import (
    EVENTS,
    TOPICS,
    Event,
    EventSpec,
    ReleaseRegistered,
    TrafficRecorded,
)
from flywheel.errors import MalformedEvent, UnknownEvent

SPECS = pytest.mark.parametrize("spec", EVENTS, ids=lambda spec: spec.schema)


NAMES = st.text("az-_ é…界", max_size=12)
IDS = st.text("az09-_. é…界", min_size=1, max_size=12).filter(lambda text: text not in {".", ".."})
TEXTS = st.text(max_size=20)


@cache
def struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{name: value(hints[name]) for name in kind.__struct_fields__})


def value(hint: Any) -> st.SearchStrategy[Any]:
    """Whatever the contract allows for a field."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        return bounded(inner, next(note for note in notes if isinstance(note, msgspec.Meta)))
    if get_origin(hint) in (Union, UnionType):
        return st.one_of(*map(value, get_args(hint)))
    if get_origin(hint) is tuple:
        return many(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return struct(hint)
    return st.from_type(hint)


def many(hint: Any, least: int = 0) -> st.SearchStrategy[Any]:
    first, *rest = get_args(hint)
    if rest == [...]:
        return st.lists(value(first), min_size=least, max_size=3).map(tuple)
    return st.tuples(value(first), *map(value, rest))


def bounded(inner: Any, meta: msgspec.Meta) -> st.SearchStrategy[Any]:
    if inner is str:
        if meta.pattern:
            return st.from_regex(meta.pattern, fullmatch=True).filter(str.isprintable)
        if not meta.extra:
            return TEXTS
        return IDS if meta.min_length else NAMES
    if inner is float:
        low = meta.gt if meta.ge is None else meta.ge
        return st.floats(low, meta.le, exclude_min=meta.gt is not None)
    if inner is int:
        return st.integers(meta.ge, meta.le)
    if inner is datetime:
        sane = (datetime(2000, 1, 1), datetime(2199, 12, 31))
        return st.datetimes(*sane, timezones=st.just(UTC))
    if get_origin(inner) is dict:
        return st.dictionaries(*map(value, get_args(inner)), max_size=3)
    return many(inner, meta.min_length or 0)


def events(spec: EventSpec) -> st.SearchStrategy[Any]:
    return struct(spec.type)


def header(spec: EventSpec) -> dict[str, bytes | str]:
    return {SCHEMA_HEADER: f"{spec.schema}/{spec.version}"}


@SPECS
@given(data=st.data())
def test_every_event_comes_back_as_it_was(spec: EventSpec, data: st.DataObject) -> None:
    event = data.draw(events(spec))
    record = encode(event)
    assert decode(record.value, dict(record.headers)) == event
    assert record.topic == spec.topic
    assert record.key == spec.key(event).encode()


@SPECS
@given(data=st.data())
def test_fields_of_a_newer_minor_version_pass(spec: EventSpec, data: st.DataObject) -> None:
    event = data.draw(events(spec))
    document = msgspec.json.decode(encode(event).value)
    document["a_field_of_tomorrow"] = {"nested": [1, 2, 3]}
    assert decode(msgspec.json.encode(document), header(spec)) == event


@pytest.mark.parametrize("schema", ["TrafficRecorded", "ReviewRequested"])
@given(data=st.data())
def test_version_1_had_a_text_and_is_read_for_ever(schema: str, data: st.DataObject) -> None:
    spec = next(spec for spec in EVENTS if spec.schema == schema)
    event = data.draw(events(spec).filter(lambda event: isinstance(event.content, str)))
    fields = msgspec.json.decode(encode(event).value)
    fields["text"] = fields.pop("content")
    old = {SCHEMA_HEADER: f"{schema}/1"}
    assert decode(msgspec.json.encode(fields), old) == event
    del fields["text"]
    with pytest.raises(MalformedEvent, match="content"):
        decode(msgspec.json.encode(fields), old)


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b"{", b"\xff", None, b"[" * 100_000])
def test_garbage_of_version_1_is_malformed(body: bytes | None) -> None:
    with pytest.raises(MalformedEvent):
        decode(body, {SCHEMA_HEADER: "TrafficRecorded/1"})


@SPECS
def test_another_major_version_is_unknown(spec: EventSpec) -> None:
    with pytest.raises(UnknownEvent, match="newer version"):
        decode(b"{}", {SCHEMA_HEADER: f"{spec.schema}/{spec.version + 1}"})


@given(name=st.text())
def test_a_schema_nobody_knows_is_unknown(name: str) -> None:
    with pytest.raises(UnknownEvent):
        decode(b"{}", {SCHEMA_HEADER: f"no such {name}/1"})


@given(header_bytes=st.binary(), body=st.binary())
def test_no_bytes_do_more_than_be_refused(header_bytes: bytes, body: bytes) -> None:
    with pytest.raises((UnknownEvent, MalformedEvent)):
        decode(body, {SCHEMA_HEADER: header_bytes})


@SPECS
@given(body=st.binary() | st.just(None) | st.just(b"{}") | st.just(b"[1,2]"))
def test_garbage_is_malformed(spec: EventSpec, body: bytes | None) -> None:
    with pytest.raises(MalformedEvent):
        decode(body, header(spec))


@SPECS
@given(data=st.data())
def test_a_cut_off_event_is_malformed(spec: EventSpec, data: st.DataObject) -> None:
    whole = encode(data.draw(events(spec))).value
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(MalformedEvent):
        decode(whole[:cut], header(spec))


def test_a_record_without_the_header_is_malformed() -> None:
    with pytest.raises(MalformedEvent, match="schema"):
        decode(b"{}", {})


def test_every_event_has_a_topic_of_the_table() -> None:
    assert {spec.topic for spec in EVENTS} == {topic.name for topic in TOPICS}


def test_events_cannot_be_changed() -> None:
    for spec in EVENTS:
        assert issubclass(spec.type, Event)
        assert spec.type.__struct_config__.frozen


def test_what_the_bounds_are_tried_with_is_sound() -> None:
    for kind in SOUND:
        decode(document(kind), named(kind))


@pytest.mark.parametrize(("kind", "fields", "field"), OUT_OF_BOUNDS)
def test_a_field_out_of_bounds_is_malformed_and_named(
    kind: type[Event], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(MalformedEvent, match=field):
        decode(document(kind, **fields), named(kind))


def test_an_event_out_of_bounds_does_not_leave() -> None:
    sound = decode(document(TrafficRecorded), named(TrafficRecorded))
    for wrong in ({"sample_id": ".."}, {"latency_ms": float("nan")}, {"content": "x" * 1_100_000}):
        with pytest.raises(MalformedEvent):
            encode(msgspec.structs.replace(sound, **wrong))


# How deep an interpreter reads differs: 1,000 levels are too many for Python 3.11, not for 3.13.
@pytest.mark.parametrize("levels", [20_000, 100_000])
def test_unknown_fields_nested_without_end_are_malformed(levels: int) -> None:
    nested = b'"of_tomorrow":' + b"[" * levels + b"]" * levels
    body = document(TrafficRecorded)[:-1] + b"," + nested + b"}"
    with pytest.raises(MalformedEvent, match="nested too deeply"):
        decode(body, named(TrafficRecorded))
    assert event_id_in(body) is None


def test_ids_that_clients_chose_before_are_still_read() -> None:
    for sample_id in ("ticket/42", "a b", "…", "x" * 128, "Ünï"):
        event = decode(document(TrafficRecorded, sample_id=sample_id), named(TrafficRecorded))
        assert isinstance(event, TrafficRecorded)
        assert event.sample_id == sample_id


def test_a_release_of_before_is_read_without_the_path_it_had() -> None:
    old = document(ReleaseRegistered, path="/srv/w/.flywheel/releases/topic-1", address=None)
    found = decode(old, {SCHEMA_HEADER: b"ReleaseRegistered/1"})
    assert isinstance(found, ReleaseRegistered)
    assert (found.release, found.address) == ("topic-1", None)
