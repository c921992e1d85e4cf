"""The expert queue: who gets which sample, also when many ask at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from storage_events import TASK, at, request, settled

from flywheel.contracts.events import LabelSettled
from flywheel.errors import Conflict
from flywheel.review.ports import Answer, QueueDepth, ReviewTask
from storage.database import Database

LEASE = 60.0


def opened(database: Database, *requests: Any) -> None:
    with database.transaction() as tx:
        assert tx.intake.open(requests) == len(requests)


def claim(
    database: Database, who: str, now: float = 0, limit: int = 10, needed: int = 1
) -> list[str]:
    with database.transaction() as tx:
        found = tx.desk.claim(TASK, who, at(now), LEASE, limit, answers_needed=needed)
    return [task.sample_id for task in found]


def answer(
    database: Database, sample: str, who: str, value: str | None, now: float = 0, end: bool = False
) -> None:
    given = Answer(sample_id=sample, annotator=who, value=value, answered_at=at(now), seconds=2.5)
    with database.transaction() as tx:
        tx.desk.answer(TASK, given, settled(sample, value) if end else None)


def nothing_settled(sample: ReviewTask, *_: object) -> LabelSettled:
    return settled(sample.sample_id, None)


def state(database: Database, sample: str) -> str:
    with database.transaction() as tx:
        found = tx.desk.find(TASK, sample)
    assert found is not None
    return found.state


def test_a_sample_is_queued_once_and_comes_back_whole(database: Database) -> None:
    event = request("s1", 70, seconds=3, audit=True, rollout_id="x", source="app")
    with database.transaction() as tx:
        assert tx.intake.open([event, event]) == 1
        assert tx.intake.open([event, request("s1", 99), request("s2")]) == 1
        found = tx.desk.find(TASK, "s1")
        assert tx.desk.find(TASK, "nothing") is None
    assert found is not None
    fields = msgspec.structs.asdict(event)
    for name in ("event_id", "occurred_at"):
        fields.pop(name)
    assert msgspec.structs.asdict(found) == fields | {"requested_at": at(3), "state": "open"}


def test_the_most_urgent_come_first_then_the_oldest(database: Database) -> None:
    opened(
        database,
        request("late", 50, 5),
        request("early", 50, 1),
        request("urgent", 90, 9),
        request("other", 99, 0, task="other"),
    )
    assert claim(database, "ada", limit=2) == ["urgent", "early"]
    assert claim(database, "bob") == ["late"]
    assert claim(database, "ada", limit=5) == ["urgent", "early"]


def test_held_samples_come_back_first_and_their_lease_is_renewed(database: Database) -> None:
    opened(database, request("s1", 10))
    assert claim(database, "ada", now=0) == ["s1"]
    opened(database, request("s2", 99))
    assert claim(database, "ada", now=50, limit=1) == ["s1"]
    assert claim(database, "bob", now=80) == ["s2"]


def test_a_lease_that_ran_out_is_open_again(database: Database) -> None:
    opened(database, request("s1"))
    assert claim(database, "ada", now=0) == ["s1"]
    assert claim(database, "bob", now=LEASE - 1) == []
    assert claim(database, "bob", now=LEASE) == ["s1"]
    assert claim(database, "ada", now=LEASE + 1) == []


def test_answered_skipped_settled_and_withdrawn_samples_are_not_given(database: Database) -> None:
    opened(database, *(request(f"s{i}") for i in range(5)))
    answer(database, "s0", "ada", "a")
    answer(database, "s1", "ada", None)
    answer(database, "s2", "bob", "a", end=True)
    with database.transaction() as tx:
        assert tx.intake.withdraw(TASK, ["s3", "s3", "unknown", "s2"]) == 1
    assert claim(database, "ada") == ["s4"]
    assert claim(database, "bob") == ["s0", "s1"]


def test_states_and_depth(database: Database) -> None:
    opened(database, *(request(f"s{i}", seconds=i) for i in range(5)))
    assert claim(database, "ada", limit=1) == ["s0"]
    answer(database, "s1", "bob", "a")
    answer(database, "s2", "bob", "a", end=True)
    answer(database, "s4", "bob", None)
    with database.transaction() as tx:
        tx.intake.withdraw(TASK, ["s3"])
    with database.transaction(read_only=True) as tx:
        assert tx.desk.depth(TASK, at(1)) == QueueDepth(
            open=1, claimed=1, submitted=1, settled=1, withdrawn=1, oldest_open=at(4)
        )
        assert tx.desk.depth(TASK, at(LEASE)).open == 2
        assert tx.desk.depth("other", at(1)) == QueueDepth()


def test_answers_are_kept_in_order_and_once_per_expert(database: Database) -> None:
    opened(database, request("s1"))
    answer(database, "s1", "bob", None, now=1)
    answer(database, "s1", "ada", "b", now=2)
    with pytest.raises(Conflict, match="ada"):
        answer(database, "s1", "ada", "a", now=3)
    with database.transaction() as tx:
        found = tx.desk.answers(TASK, "s1")
    assert found == [
        Answer(sample_id="s1", annotator="bob", value=None, answered_at=at(1), seconds=2.5),
        Answer(sample_id="s1", annotator="ada", value="b", answered_at=at(2), seconds=2.5),
    ]


def test_undo_takes_back_the_latest_and_gives_the_sample_again(database: Database) -> None:
    opened(database, request("s1"), request("s2"))
    answer(database, "s1", "ada", "a", now=1)
    answer(database, "s2", "ada", "b", now=2, end=True)
    answer(database, "s1", "bob", "b", now=3)
    with database.transaction() as tx:
        undone = tx.desk.undo(TASK, "ada", at(4), LEASE, nothing_settled)
    assert undone is not None
    assert (undone.sample.sample_id, undone.sample.state) == ("s2", "claimed")
    assert claim(database, "ada", now=5, limit=1) == ["s2"]
    assert claim(database, "cleo", now=5) == ["s1"]
    with database.transaction() as tx:
        earlier = tx.desk.undo(TASK, "ada", at(6), LEASE, nothing_settled)
        assert tx.desk.undo(TASK, "ada", at(7), LEASE, nothing_settled) is None
        assert tx.desk.undo(TASK, "nobody", at(7), LEASE, nothing_settled) is None
    assert earlier is not None
    assert earlier.sample.sample_id == "s1"
    answer(database, "s2", "ada", "a", now=8, end=True)
    assert state(database, "s2") == "settled"


def test_undo_leaves_a_settlement_that_stays_and_records_another(database: Database) -> None:
    opened(database, request("s1"))
    answer(database, "s1", "ada", None, now=1)
    answer(database, "s1", "bob", "a", now=2)
    answer(database, "s1", "cleo", "b", now=3, end=True)
    judged = []

    def stays(sample: ReviewTask, taken_back: Answer, remaining: Sequence[Answer]) -> None:
        judged.append((sample.state, taken_back.annotator, [one.annotator for one in remaining]))

    with database.transaction() as tx:
        undone = tx.desk.undo(TASK, "ada", at(4), LEASE, stays)
    assert judged == [("settled", "ada", ["bob", "cleo"])]
    assert undone is not None
    assert (undone.sample.state, undone.settled) == ("settled", None)
    assert claim(database, "ada", now=5) == [], "nobody is to answer what is settled"
    with database.transaction() as tx:
        undone = tx.desk.undo(TASK, "cleo", at(6), LEASE, lambda *_: settled("s1", "a"))
    assert undone is not None
    assert undone.sample.state == state(database, "s1") == "settled"
    with database.transaction() as tx:
        tx.intake.withdraw(TASK, ["s1"])
        undone = tx.desk.undo(TASK, "bob", at(7), LEASE, nothing_settled)
    assert undone is not None
    assert undone.sample.state == "withdrawn"


def test_several_experts_hold_a_sample_only_as_far_as_needed(database: Database) -> None:
    opened(database, request("s1"))
    assert claim(database, "ada", needed=2) == ["s1"]
    assert claim(database, "bob", needed=2) == ["s1"]
    assert claim(database, "cleo", needed=2) == []
    answer(database, "s1", "ada", "a")
    assert claim(database, "cleo", needed=2) == []
    answer(database, "s1", "bob", "b")
    # They disagree, so it was not settled: one more is wanted, and only one.
    assert claim(database, "cleo", needed=2) == ["s1"]
    assert claim(database, "dan", needed=2) == []


def test_lifted_samples_go_first_also_those_that_come_later(database: Database) -> None:
    opened(database, request("s1", 10), request("s2", 50, release="r2"), request("s3", 95))
    with database.transaction() as tx:
        assert tx.intake.raise_priority(TASK, "r1", 90) == 1
        tx.intake.raise_priority(TASK, "r1", 20)
    opened(database, request("s4", 5, seconds=1))
    assert claim(database, "ada") == ["s3", "s1", "s4", "s2"]
    with database.transaction() as tx:
        lifted = tx.desk.find(TASK, "s4")
    assert lifted is not None
    assert lifted.priority == 90


def test_audits_of_an_ended_rollout_wait_behind_those_of_a_running_one(
    database: Database,
) -> None:
    def audit(name: str, rollout: str, seconds: int = 0, release: str = "r1") -> Any:
        return request(name, 95, seconds=seconds, release=release, audit=True, rollout_id=rollout)

    opened(database, audit("old", "ended"), audit("lifted", "ended", release="bad"))
    opened(database, request("unsure", 80))
    with database.transaction() as tx:
        tx.intake.raise_priority(TASK, "bad", 90)
        assert tx.intake.end_rollout(TASK, "ended", 75) == 2
    opened(database, audit("late", "ended", 1), audit("new", "running", 2))
    assert claim(database, "ada") == ["new", "lifted", "unsure", "old", "late"]


def test_a_sample_that_was_settled_before_it_was_queued_is_withdrawn(database: Database) -> None:
    with database.transaction() as tx:
        assert tx.intake.withdraw(TASK, ["s1"]) == 0
    opened(database, request("s1"))
    assert state(database, "s1") == "withdrawn"
    assert claim(database, "ada") == []


def test_what_was_done_long_ago_is_out_of_the_way_and_comes_back_by_undo(
    database: Database,
) -> None:
    opened(database, request("s1", 90), request("s2", 80), request("s3", 70))
    answer(database, "s1", "ada", "a", end=True)
    with database.transaction() as tx:
        tx.intake.withdraw(TASK, ["s2"])
    opened(database, request("s4", 10))
    with database.work() as work:
        closed = "SELECT sample_id FROM review_tasks WHERE closed ORDER BY sample_id"
        assert [row[0] for row in work.connection.exec_driver_sql(closed)] == ["s1", "s2"]
    assert (state(database, "s1"), state(database, "s2")) == ("settled", "withdrawn")
    with database.transaction() as tx:
        assert tx.desk.undo(TASK, "ada", at(0), LEASE, nothing_settled) is not None
    assert claim(database, "ada", now=1, limit=1) == ["s1"]
    opened(database, request("s5", 5))
    assert claim(database, "bob", now=LEASE + 2, limit=2) == ["s1", "s3"]


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work(0…count-1)`` in threads that start at the same moment."""
    barrier = threading.Barrier(count)

    def run(index: int) -> Any:
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("needed", [1, 2])
def test_no_sample_is_given_to_more_experts_than_needed(database: Database, needed: int) -> None:
    opened(database, *(request(f"s{i}", priority=i % 3) for i in range(24)))

    def work(index: int) -> list[str]:
        mine: list[str] = []
        for _ in range(3):
            mine = claim(database, f"expert {index}", limit=len(mine) + 2, needed=needed)
        return mine

    given = together(8, work)
    holders = Counter(sample for samples in given for sample in samples)
    assert all(len(samples) == len(set(samples)) for samples in given)
    assert max(holders.values()) <= needed
    if needed == 1:
        assert sorted(holders) == sorted(f"s{i}" for i in range(24))


def test_who_searches_while_another_takes_the_sample_does_not_get_it(database: Database) -> None:
    """Between the search's view of the queue and its lock on a sample, another may have come."""
    done = [request(f"done {i}", priority=90) for i in range(3000)]
    opened(database, *done, *(request(f"s{i}", priority=i) for i in range(16)))
    with database.transaction() as tx:
        # In the way of every search, so that it takes a while to come to an open sample.
        tx.intake.withdraw(TASK, [event.sample_id for event in done])

    def work(index: int) -> list[str]:
        time.sleep(index * 0.002)
        return [sample for i in range(2) for sample in claim(database, f"{index} {i}", limit=1)]

    given = [sample for samples in together(8, work) for sample in samples]
    assert sorted(given) == sorted(f"s{i}" for i in range(16))


def test_experts_who_answer_at_once_settle_a_sample_once(database: Database) -> None:
    samples = [f"s{i}" for i in range(6)]
    opened(database, *(request(sample) for sample in samples))

    def work(index: int) -> int:
        settled_here = 0
        for sample in samples:
            with database.transaction() as tx:
                found = tx.desk.find(TASK, sample)
                assert found is not None
                others = [a for a in tx.desk.answers(TASK, sample) if a.value]
                outcome = settled(sample, "a") if len(others) == 1 else None
                given = Answer(
                    sample_id=sample, annotator=f"{index}", value="a", answered_at=at(index)
                )
                if found.state != "settled":
                    tx.desk.answer(TASK, given, outcome)
                    settled_here += outcome is not None
        return settled_here

    assert sum(together(4, work)) == len(samples)
