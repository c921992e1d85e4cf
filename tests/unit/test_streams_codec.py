"""Events to bytes and back, whatever they hold."""

from __future__ import annotations

from datetime import UTC
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.codec import SCHEMA_HEADER, decode, encode
from flywheel.contracts.events import EVENTS, TOPICS, Event, EventSpec
from flywheel.contracts.release import Override
from flywheel.contracts.split import TrafficSplit
from flywheel.errors import MalformedEvent, UnknownEvent

SPECS = pytest.mark.parametrize("spec", EVENTS, ids=lambda spec: spec.schema)


def struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: value(hint) for name, hint in get_type_hints(kind).items()})


def value(hint: Any) -> st.SearchStrategy[Any]:
    return st.from_type(hint)


st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
for nested in (Override, TrafficSplit):
    st.register_type_strategy(nested, struct(nested))


def events(spec: EventSpec) -> st.SearchStrategy[Any]:
    fields = {name: value(hint) for name, hint in get_type_hints(spec.type).items()}
    fields["occurred_at"] = st.datetimes(timezones=st.just(UTC))
    return st.builds(spec.type, **fields)


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
