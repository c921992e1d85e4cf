"""The outbox, what two workers do at once, and transactions themselves."""

from __future__ import annotations

import threading

import pytest
from storage_events import TASK, label, settled, traffic

from flywheel.contracts.codec import decode, encode
from flywheel.contracts.positions import Handled, Position
from storage.database import Database


def test_events_leave_with_the_transaction_in_their_order(database: Database) -> None:
    events = [settled("s1", "a"), label("s2", "b", "user"), settled("s1", None)]
    with database.transaction("console") as tx:
        tx.outbox.add(events[:2])
        tx.outbox.add([])
        tx.outbox.add(events[2:])
    rows = database.outbox_rows("console")
    found = rows.unsent(10)
    assert [record for _, record in found] == [encode(event) for event in events]
    assert [decode(r.value, dict(r.headers)) for _, r in found] == events
    assert [i for i, _ in rows.unsent(2)] == [i for i, _ in found[:2]]


def fail_halfway(database: Database) -> None:
    with database.transaction("console") as tx:
        tx.label_intake.record_labels([label("s1", "a", "seed")])
        tx.outbox.add([settled("s1", "a")])
        raise KeyError


def test_a_transaction_that_fails_leaves_neither_state_nor_events(database: Database) -> None:
    with pytest.raises(KeyError):
        fail_halfway(database)
    assert database.outbox_rows("console").unsent(10) == []
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1")])
        assert tx.labels.watermark(TASK) is None


def test_what_was_sent_is_not_sent_again(database: Database) -> None:
    with database.transaction("console") as tx:
        tx.outbox.add([settled(f"s{i}", "a") for i in range(5)])
    rows = database.outbox_rows("console")
    ids = [i for i, _ in rows.unsent(10)]
    rows.mark_sent(ids[:3])
    rows.mark_sent([])
    assert [i for i, _ in rows.unsent(10)] == ids[3:]
    with database.transaction("console") as tx:
        tx.outbox.add([settled("later", "a")])
    assert min(i for i, _ in rows.unsent(10)[2:]) > max(ids)


def test_each_owner_has_an_outbox_of_its_own(database: Database) -> None:
    for owner in ("console", "trainer"):
        with database.transaction(owner) as tx:
            tx.outbox.add([settled(owner, "a")])
    ((_, record),) = database.outbox_rows("trainer").unsent(10)
    assert record.key == b"trainer"


def test_an_outbox_needs_an_owner(database: Database) -> None:
    with database.transaction() as tx, pytest.raises(ValueError, match="owner"):
        tx.outbox.add([settled("s1", "a")])


def test_two_workers_may_handle_the_same_events_at_once(database: Database) -> None:
    events = [traffic(f"s{i}") for i in range(300)]
    failures: list[BaseException] = []

    def work(order: int) -> None:
        try:
            with database.transaction() as tx:
                tx.label_intake.record_samples(events[::order])
                tx.evidence_intake.record(events[::order])
                tx.positions.note("labels", [Handled("topic", 0, "log", range(300), 300)])
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(order,)) for order in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with database.transaction() as tx:
        assert tx.overview.traffic_counts(TASK)["requests"] == 300
        assert tx.positions.of("labels") == {("topic", 0): Position("log", 300, 300)}


def test_a_reader_sees_one_moment_and_does_not_wait(database: Database) -> None:
    with database.transaction() as tx:
        tx.label_intake.record_samples([traffic("s1")])
    with database.transaction(read_only=True) as reader:
        assert reader.overview.traffic_counts(TASK)["requests"] == 1
        with database.transaction() as writer:
            writer.label_intake.record_samples([traffic("s2")])
            assert reader.overview.traffic_counts(TASK)["requests"] == 1
        assert reader.overview.traffic_counts(TASK)["requests"] == 1
    with database.transaction(read_only=True) as reader:
        assert reader.overview.traffic_counts(TASK)["requests"] == 2
