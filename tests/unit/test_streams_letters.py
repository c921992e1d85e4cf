"""Dead letters without a broker: always one that is written, and a replay that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from flywheel.contracts.codec import Record, decode, encode
from flywheel.contracts.events import DeadLettered, Event
from flywheel.errors import BrokerError, MalformedEvent, RecordRefused
from flywheel.settings import KafkaSettings
from streams import dead_letters
from streams.dead_letters import ORIGIN_HEADER, letter_of, record_of_letter, replay

LIMIT = 1000
Headers = list[tuple[str, bytes | None]]


def letter(
    value: bytes | None = b"v",
    headers: Headers | None = None,
    key: bytes | None = b"k",
    reason: str = "not an event",
    offset: int = 7,
) -> DeadLettered:
    record = SimpleNamespace(
        topic="flywheel.traffic",
        partition=0,
        offset=offset,
        timestamp=1.0,
        key=key,
        value=value,
        headers=headers or [],
    )
    return letter_of(record, "group", MalformedEvent(reason), "")


@pytest.mark.parametrize(
    "headers",
    [
        [("\x01" * 1_000_000, b"")],
        [("", None)] * 450_000,
        [("\x01" * 600, b"x")] * 1_500,
        [("half \ud800", b"x")],
    ],
    ids=["control characters", "empty names", "many of them", "half of a pair"],
)
def test_a_letter_is_written_whatever_headers_its_record_has(headers: Headers) -> None:
    made = letter(headers=headers)
    record = encode(made)
    assert decode(record.value, dict(record.headers)) == made
    assert made.cut is not None
    kept = made.record_headers or ()
    assert kept == tuple(headers[: len(kept)])
    assert made.cut.headers_dropped == len(headers) - len(kept) > 0


def test_a_large_key_is_cut() -> None:
    made = letter(key=b"k" * (4 << 20))
    assert encode(made)
    assert b"k" * 4096 > (made.key or b"") > b"k"


def test_a_reason_that_cannot_be_written_is_made_writable() -> None:
    made = letter(reason="half \ud800")
    assert encode(made)
    assert made.cut is None


def test_of_a_letter_that_cannot_be_written_its_place_and_code_are() -> None:
    unwritable = DeadLettered(**{**fields(letter()), "task": "x" * 300})
    with pytest.raises(MalformedEvent):
        encode(unwritable)
    record = record_of_letter(unwritable)
    written = decode(record.value, dict(record.headers))
    assert isinstance(written, DeadLettered)
    assert (written.source_topic, written.offset, written.code) == (
        "flywheel.traffic",
        7,
        "malformed-event",
    )
    assert written.cut is not None
    assert "task" in written.reason


def fields(event: DeadLettered) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


class Bounded:
    """Takes records up to a limit, all bytes counted, and says which it refused."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.events: list[Event] = []

    def publish(self, events: Sequence[Event]) -> None:
        self.events += events

    def publish_records(self, records: Sequence[Record]) -> None:
        refused = {}
        for number, record in enumerate(records):
            size = sum(len(name) + len(content or b"") for name, content in record.headers)
            if size + len(record.value or b"") > LIMIT:
                refused[number] = "too large"
            else:
                self.records.append(record)
        if refused:
            raise RecordRefused("some are too large", refused)

    def close(self) -> None:
        pass


def test_a_record_that_is_refused_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    small, full, large, last = (
        letter(value=b"x" * size, offset=size) for size in (1, LIMIT, LIMIT + 1, 2)
    )
    monkeypatch.setattr(dead_letters, "all_letters", lambda kafka: [small, full, large, last])
    publisher = Bounded()
    done = replay(KafkaSettings(), publisher)
    assert (done.sent, done.refused) == (3, {large.event_id: "too large"})
    assert [event.event_id for event in publisher.events] == [
        one.event_id for one in (small, full, last)
    ]
    assert len(publisher.records) == 3
    marked = {record.value: dict(record.headers) for record in publisher.records}
    assert ORIGIN_HEADER not in marked[full.value]
    assert ORIGIN_HEADER in marked[last.value]


def test_letters_are_marked_before_all_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaving(Bounded):
        def publish_records(self, records: Sequence[Record]) -> None:
            if self.records:
                raise BrokerError("away")
            super().publish_records(records)

    letters = [letter(offset=offset) for offset in range(250)]
    monkeypatch.setattr(dead_letters, "all_letters", lambda kafka: letters)
    publisher = Leaving()
    with pytest.raises(BrokerError, match="away"):
        replay(KafkaSettings(), publisher)
    assert len(publisher.events) == len(publisher.records) > 0
