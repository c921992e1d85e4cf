"""The outbox relay: everything is sent, nothing is marked before it was acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flywheel.contracts.codec import Record
from flywheel.contracts.events import Event
from flywheel.errors import BrokerError
from streams.relay import OutboxRelay


def record(number: int) -> Record:
    return Record("topic", b"", str(number).encode(), ())


class Rows:
    """An outbox table in memory."""

    def __init__(self, count: int) -> None:
        self.rows = {number: record(number) for number in range(count)}

    def unsent(self, limit: int) -> list[tuple[int, Record]]:
        return sorted(self.rows.items())[:limit]

    def mark_sent(self, ids: Sequence[int]) -> None:
        for row in ids:
            del self.rows[row]


class Log:
    """A broker in memory that is away for its first ``failures`` calls."""

    def __init__(self, failures: int = 0) -> None:
        self.records: list[Record] = []
        self._failures = failures

    def publish(self, events: Sequence[Event]) -> None:
        raise NotImplementedError

    def publish_records(self, records: Sequence[Record]) -> None:
        if self._failures:
            self._failures -= 1
            raise BrokerError("away")
        self.records += records

    def close(self) -> None:
        return


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_all_rows_are_sent_in_order_and_marked() -> None:
    rows, log = Rows(1201), Log()
    assert OutboxRelay(rows, log).drain() == 1201
    assert log.records == [record(number) for number in range(1201)]
    assert not rows.rows


def test_a_row_that_was_not_acknowledged_stays_and_is_sent_later() -> None:
    rows, log = Rows(3), Log(failures=2)
    relay = OutboxRelay(rows, log, interval=0.01)
    relay.start()
    wait_for(lambda: not rows.rows)
    relay.stop()
    assert log.records == [record(0), record(1), record(2)]


def test_stop_sends_what_is_there_and_wake_does_not_wait() -> None:
    rows, log = Rows(0), Log()
    relay = OutboxRelay(rows, log, interval=3600)
    relay.start()
    rows.rows[1] = record(1)
    relay.wake()
    wait_for(lambda: len(log.records) == 1)
    rows.rows[2] = record(2)
    relay.stop()
    assert log.records == [record(1), record(2)]


def test_only_who_may_send_sends() -> None:
    rows, log = Rows(3), Log()
    said = iter([False, True, False])
    relay = OutboxRelay(rows, log, allowed=lambda: next(said))
    assert relay.drain() == 0
    assert relay.drain() == 0, "the right ran out while the rows were read"
    assert len(rows.rows) == 3
    assert log.records == []
