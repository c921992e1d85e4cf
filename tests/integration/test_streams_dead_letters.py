"""Dead letters on a real Kafka: kept whole or cut, sent again once, however often one asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flywheel.contracts.events import DeadLettered
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import MalformedEvent
from flywheel.settings import KafkaSettings
from streams.dead_letters import all_letters, letter_of, list_dead_letters, replay
from streams.publisher import KafkaPublisher
from streams.reading import read_topic

TOPIC = "flywheel.traffic"
Headers = list[tuple[str, bytes | None]]


@pytest.fixture
def publisher(kafka: KafkaSettings) -> Iterator[KafkaPublisher]:
    one = KafkaPublisher(kafka, "test")
    yield one
    one.close()


@pytest.fixture
def group() -> str:
    return f"test.{new_id()}"


def send(kafka: KafkaSettings, key: bytes | None, value: bytes | None, headers: Headers) -> None:
    """Put a record into the log as any client of Kafka can, null header values included."""
    from aiokafka import AIOKafkaProducer

    async def put() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=kafka.servers, max_request_size=8 << 20)
        await producer.start()
        try:
            await producer.send_and_wait(TOPIC, value, key, headers=headers)
        finally:
            await producer.stop()

    asyncio.run(put())


def records(kafka: KafkaSettings, key: bytes) -> list[Any]:
    return [record for record in read_topic(kafka, TOPIC) if record.key == key]


def refuse(publisher: KafkaPublisher, record: Any, group: str) -> None:
    """What the boundary does with a record that it cannot use."""
    publisher.publish([letter_of(record, group, MalformedEvent("not an event"), "")])


def waiting(kafka: KafkaSettings, group: str) -> list[DeadLettered]:
    return [one for one in list_dead_letters(kafka, 10**6) if one.group == group]


def of(group: str) -> Callable[[DeadLettered], bool]:
    return lambda letter: letter.group == group


def test_a_letter_goes_back_once_however_often_it_is_replayed(
    kafka: KafkaSettings, publisher: KafkaPublisher, group: str
) -> None:
    key = new_id().encode()
    send(kafka, key, b"garbage", [])
    refuse(publisher, records(kafka, key)[0], group)
    assert replay(kafka, publisher, of(group)).sent == 1
    assert waiting(kafka, group) == []
    assert replay(kafka, publisher, of(group)).sent == 0
    assert len(records(kafka, key)) == 2


def test_a_record_that_fails_again_has_one_letter(
    kafka: KafkaSettings, publisher: KafkaPublisher, group: str
) -> None:
    key = new_id().encode()
    send(kafka, key, b"garbage", [])
    refuse(publisher, records(kafka, key)[0], group)
    for _round in range(3):
        assert replay(kafka, publisher, of(group)).sent == 1
        refuse(publisher, records(kafka, key)[-1], group)
        assert len(waiting(kafka, group)) == 1
    assert len(records(kafka, key)) == 4


def test_a_replay_that_was_interrupted_doubles_no_letter(
    kafka: KafkaSettings, publisher: KafkaPublisher, group: str
) -> None:
    class Interrupted(KafkaPublisher):
        def publish(self, events: object) -> None:
            raise KeyboardInterrupt

    key = new_id().encode()
    send(kafka, key, b"garbage", [])
    refuse(publisher, records(kafka, key)[0], group)
    dying = Interrupted(kafka, "test")
    with pytest.raises(KeyboardInterrupt):
        replay(kafka, dying, of(group))
    dying.close()
    assert replay(kafka, publisher, of(group)).sent == 1
    for record in records(kafka, key)[1:]:
        refuse(publisher, record, group)
    assert len(waiting(kafka, group)) == 1


def test_what_is_replayed_is_what_there_was(
    kafka: KafkaSettings, publisher: KafkaPublisher, group: str
) -> None:
    key = new_id().encode()
    odd: Headers = [("schema", None), ("bytes", b"\xff\x00\xe9"), ("twice", b"1"), ("twice", b"2")]
    send(kafka, key, None, odd)
    refuse(publisher, records(kafka, key)[0], group)
    assert replay(kafka, publisher, of(group)).sent == 1
    again = records(kafka, key)[-1]
    assert (again.value, list(again.headers[:4])) == (None, odd)


@pytest.mark.parametrize(
    ("value", "headers"),
    [(b"x" * (6 << 20), []), (b"x", [("h", b"\x01" * (6 << 20))])],
    ids=["value", "header"],
)
def test_a_record_no_letter_can_carry_is_cut_and_says_so(
    kafka: KafkaSettings, publisher: KafkaPublisher, group: str, value: bytes, headers: Headers
) -> None:
    # A topic that someone lets grow, or that was made before its records were bounded.
    class Received:
        topic, partition, offset, timestamp, key = TOPIC, 0, 7, 1.0, b"k"

    Received.value, Received.headers = value, headers  # type: ignore[attr-defined]
    refuse(publisher, Received, group)
    (letter,) = waiting(kafka, group)
    assert letter.cut is not None
    assert letter.cut.value_bytes == len(value)
    assert value.startswith(letter.value or b"")
    done = replay(kafka, publisher, of(group))
    assert (done.sent, done.cut) == (0, (letter.event_id,))
    assert waiting(kafka, group) == [letter]


def test_letters_of_earlier_versions_are_listed_and_replayed(
    kafka: KafkaSettings, publisher: KafkaPublisher, group: str
) -> None:
    key = new_id().encode()
    old = DeadLettered(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="",
        source_topic=TOPIC,
        partition=0,
        offset=3,
        group=group,
        code="malformed-event",
        reason="r",
        key=key,
        value=b"old",
        headers={"schema": "odd/\xe9"},
    )
    publisher.publish([old])
    assert replay(kafka, publisher, of(group)).sent == 1
    again = records(kafka, key)[-1]
    assert again.headers[0] == ("schema", b"odd/\xe9")
    assert next(one for one in all_letters(kafka) if one.event_id == old.event_id).replayed_at


def test_a_record_that_its_topic_refuses_stops_no_other(
    kafka: KafkaSettings, publisher: KafkaPublisher, group: str
) -> None:
    # A topic that someone let grow once, and made small again.
    class Large:
        topic, partition, offset, timestamp, key = TOPIC, 0, 7, 1.0, b"k"
        value, headers = b"x" * (2 << 20), ()

    key = new_id().encode()
    refuse(publisher, Large, group)
    send(kafka, key, b"garbage", [])
    refuse(publisher, records(kafka, key)[0], group)
    large, _small = sorted(waiting(kafka, group), key=lambda letter: len(letter.value or b""))[::-1]
    done = replay(kafka, publisher, of(group))
    assert (done.sent, list(done.refused)) == (1, [large.event_id])
    assert waiting(kafka, group) == [large]
    # At least once: the batch that was refused may have stored it already.
    assert len(records(kafka, key)) in (2, 3)
