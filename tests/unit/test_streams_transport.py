"""The Faust driver that hands on whole batches: what is committed when deliveries go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from faust.types.tuples import TP

from flywheel.settings import KafkaSettings
from streams import transport
from streams.transport import MOST_RECORDS, Batch, Fetched
from streams.worker_app import build_app

ONE, TWO = TP("t", 0), TP("t", 1)


def record(offset: int, tp: TP = ONE, value: bytes | None = b"v") -> ConsumerRecord[bytes, bytes]:
    size = len(value) if value is not None else -1
    return ConsumerRecord(tp.topic, tp.partition, offset, 1, 1, None, value, None, -1, size, ())


class Client:
    """In place of the thread around aiokafka: a log of each partition, read from a position."""

    beacon = None

    def __init__(self, logs: Mapping[TP, Sequence[Any]]) -> None:
        self.logs = logs
        self.positions = dict.fromkeys(logs, 0)
        self.committed: dict[TP, int] = {}
        self.epoch = 0
        self.after_fetch: Callable[[], None] = lambda: None
        self.app: Any = None

    async def getmany(self, active: set[TP], timeout: float) -> Fetched:  # noqa: ASYNC109
        found: dict[Any, list[Any]] = {}
        for tp in active:
            found[TopicPartition(*tp)] = [
                one for one in self.logs[tp] if one.offset >= self.positions[tp]
            ]
            if found[TopicPartition(*tp)]:
                self.positions[tp] = self.logs[tp][-1].offset + 1
        fetched = Fetched(found, dict(self.positions), self.epoch, self.app.consumer_generation_id)
        self.after_fetch()
        await asyncio.sleep(0)
        return fetched

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        for tp in self.positions:
            self.positions[tp] = self.committed.get(tp, 0)
        self.epoch += 1
        return {tp: self.committed.get(tp) for tp in self.positions}

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        self.committed |= offsets
        return True

    def assignment(self) -> set[TP]:
        return set(self.positions)

    def highwater(self, tp: TP) -> int:
        return len(self.logs[tp])


class Reading:
    """A consumer of the driver, as Faust's fetcher drives it."""

    def __init__(self, client: Client) -> None:
        self.app = build_app(KafkaSettings(local_port=9), "group")
        self.client = client
        self.client.app = self.app
        self.consumer: Any = self.app.consumer
        self.consumer._set_active_tps(set(client.logs))
        self.delivered: list[Any] = []

    async def once(self) -> list[Any]:
        """Deliver what one fetch gives."""
        found = []
        async for tp, message in self.consumer.getmany(timeout=0.01):
            assert message.tp == tp
            message.incref()
            found.append(message)
        self.delivered += found
        return found

    def ack(self, *messages: Any) -> None:
        for message in messages:
            message.ack(self.consumer)

    async def commits(self) -> dict[TP, int]:
        offsets = self.consumer._filter_committable_offsets(
            self.consumer._filter_tps_with_pending_acks()
        )
        await self.client.commit(offsets)
        self.consumer._committed_offset.update(offsets)
        return self.client.committed


def offsets(messages: Sequence[Any]) -> list[int]:
    return [record.offset for message in messages for record in message.value.records]


def run(logs: Mapping[TP, Sequence[Any]], scenario: Callable[[Reading], Awaitable[None]]) -> None:
    asyncio.run(scenario_with(Client(logs), scenario))


async def scenario_with(client: Client, scenario: Callable[[Reading], Awaitable[None]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport.Consumer, "_new_consumer_thread", lambda _: client)
        await scenario(Reading(client))


def test_a_fetch_is_one_message_a_partition_and_commits_as_a_whole() -> None:
    async def scenario(reading: Reading) -> None:
        messages = sorted(await reading.once(), key=lambda message: message.tp)
        assert [len(message.value.records) for message in messages] == [5, 3]
        assert await reading.commits() == {}
        reading.ack(messages[1])
        assert await reading.commits() == {TWO: 3}
        reading.ack(messages[0])
        assert await reading.commits() == {ONE: 5, TWO: 3}

    run({ONE: [record(n) for n in range(5)], TWO: [record(n, TWO) for n in range(3)]}, scenario)


def test_nothing_is_committed_past_a_batch_that_is_not_acknowledged() -> None:
    async def scenario(reading: Reading) -> None:
        first, second, third = await reading.once()
        reading.ack(third)
        assert await reading.commits() == {}
        reading.ack(first)
        assert await reading.commits() == {ONE: MOST_RECORDS}
        reading.ack(second)
        assert await reading.commits() == {ONE: 2 * MOST_RECORDS + 1}

    run({ONE: [record(n) for n in range(2 * MOST_RECORDS + 1)]}, scenario)


def test_records_without_a_value_count_like_others() -> None:
    async def scenario(reading: Reading) -> None:
        [message] = await reading.once()
        assert [one.value for one in message.value.records] == [b"v", None, b""]
        reading.ack(message)
        assert await reading.commits() == {ONE: 3}

    run({ONE: [record(0), record(1, value=None), record(2, value=b"")]}, scenario)


def test_a_fetch_that_gives_nothing_delivers_nothing() -> None:
    async def scenario(reading: Reading) -> None:
        assert await reading.once() == []
        assert await reading.commits() == {}

    run({ONE: []}, scenario)


def test_marks_of_transactions_behind_the_last_record_are_committed_with_it() -> None:
    async def scenario(reading: Reading) -> None:
        [message] = await reading.once()
        assert (message.value.first, message.value.end) == (0, 7)
        reading.ack(message)
        assert await reading.commits() == {ONE: 7}

    class Marked(Client):
        async def getmany(self, active: set[TP], timeout: float) -> Fetched:  # noqa: ASYNC109
            fetched = await super().getmany(active, timeout)
            fetched.ends = {ONE: 7}
            return fetched

    asyncio.run(scenario_with(Marked({ONE: [record(n) for n in range(5)]}), scenario))


@pytest.mark.parametrize("how", ["sought", "another generation", "revoked"])
def test_what_was_fetched_before_reading_went_elsewhere_comes_again(how: str) -> None:
    async def scenario(reading: Reading) -> None:
        [first] = await reading.once()
        reading.ack(first)
        await reading.commits()
        reading.client.logs = {ONE: [record(n) for n in range(20)]}

        def disturb() -> None:
            reading.client.after_fetch = lambda: None
            if how == "sought":
                reading.client.epoch += 1
            elif how == "another generation":
                reading.app.consumer_generation_id += 1
            else:
                reading.consumer._active_partitions.discard(ONE)

        reading.client.after_fetch = disturb
        assert await reading.once() == []
        reading.consumer._set_active_tps({ONE})
        await reading.once()  # goes back, at the latest
        if not reading.delivered[1:]:
            await reading.once()
        assert offsets(reading.delivered) == list(range(20))
        reading.ack(*reading.delivered[1:])
        assert await reading.commits() == {ONE: 20}

    run({ONE: [record(n) for n in range(5)]}, scenario)


def test_what_is_fetched_while_reading_goes_back_comes_again() -> None:
    """A fetch that a rebalance found waiting takes what lies at the place that was just sought."""

    class Waiting(Client):
        def __init__(self, logs: Mapping[TP, Sequence[Any]]) -> None:
            super().__init__(logs)
            self.there_is_more, self.waits = asyncio.Event(), False
            self.while_seeking: Awaitable[Any] | None = None

        async def getmany(self, active: set[TP], timeout: float) -> Fetched:  # noqa: ASYNC109
            if self.waits:
                await self.there_is_more.wait()
            return await super().getmany(active, timeout)

        async def seek_to_committed(self) -> Mapping[TP, int | None]:
            for tp in self.positions:
                self.positions[tp] = self.committed.get(tp, 0)
            if self.while_seeking is not None:
                self.there_is_more.set()
                await self.while_seeking
                self.while_seeking = None
            self.epoch += 1
            return {tp: self.committed.get(tp) for tp in self.positions}

    async def scenario(reading: Reading) -> None:
        client = reading.client
        assert isinstance(client, Waiting)
        [first] = await reading.once()
        reading.ack(first)
        await reading.commits()
        client.waits = True
        client.while_seeking = asyncio.ensure_future(reading.once())
        await asyncio.sleep(0)
        reading.consumer.stop_flow()
        client.logs = {ONE: [record(n) for n in range(20)]}
        await reading.consumer.perform_seek()
        reading.consumer.resume_flow()
        await reading.once()
        await reading.once()
        assert offsets(reading.delivered) == list(range(20))

    async def run_it() -> None:
        await scenario_with(Waiting({ONE: [record(n) for n in range(5)]}), scenario)

    asyncio.run(run_it())


def test_an_acknowledgement_from_before_reading_went_back_counts_for_nothing() -> None:
    async def scenario(reading: Reading) -> None:
        [before] = await reading.once()
        await reading.consumer.perform_seek()
        reading.ack(before)
        assert await reading.commits() == {}
        [after] = await reading.once()
        assert offsets([after]) == offsets([before])
        reading.ack(after)
        assert await reading.commits() == {ONE: 5}

    run({ONE: [record(n) for n in range(5)]}, scenario)


def test_revoked_partitions_commit_nothing_that_comes_late() -> None:
    async def scenario(reading: Reading) -> None:
        one, two = sorted(await reading.once(), key=lambda message: message.tp)
        reading.consumer._forget({ONE})
        reading.ack(one, two)
        assert await reading.commits() == {TWO: 1}

    run({ONE: [record(0)], TWO: [record(0, TWO)]}, scenario)


def test_a_log_that_begins_anew_is_read_and_committed_from_its_beginning() -> None:
    async def scenario(reading: Reading) -> None:
        [message] = await reading.once()
        reading.ack(message)
        assert await reading.commits() == {ONE: 9}
        reading.client.logs = {ONE: [record(n) for n in range(4)]}
        reading.client.positions[ONE] = 0  # as the client does where its offset is out of range
        [message] = await reading.once()
        assert offsets([message]) == [0, 1, 2, 3]
        reading.ack(message)
        assert await reading.commits() == {ONE: 4}

    run({ONE: [record(n) for n in range(9)]}, scenario)


def test_no_more_is_fetched_than_memory_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MOST_BYTES", 3000)

    async def scenario(reading: Reading) -> None:
        [held] = await reading.once()
        reading.client.logs = {ONE: [record(n) for n in range(9)]}
        assert await reading.once() == []
        assert reading.client.positions == {ONE: 5}
        reading.ack(held)
        [more] = await reading.once()
        assert offsets([more]) == [5, 6, 7, 8]
        assert isinstance(more.value, Batch)

    run({ONE: [record(n) for n in range(5)]}, scenario)
