"""Dataset versions, releases, turns, and what a turn that is asked for waits for."""

from __future__ import annotations

from typing import Any

import msgspec
from release_records import release_record
from storage_events import TASK, at

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.ids import new_id
from flywheel.contracts.leases import presence
from flywheel.contracts.release import KeptRelease, Override, Release
from flywheel.retraining.ports import Ahead, Turn, TurnRequest
from storage.database import Database


def dataset(version: str, seconds: float, **other: Any) -> DatasetVersioned:
    values: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": at(seconds),
        "task": TASK,
        "version": version,
        "parent": None,
        "git_commit": "abc",
        "dvc_hash": "def.dir",
        "watermark": "000000000007",
        "expert_labels": 10,
        "auto_labels": 5,
        "seed_labels": 4,
        "holdout_labels": 3,
    }
    return DatasetVersioned(**(values | other))


def release(name: str, seconds: float, **other: Any) -> Release:
    values: dict[str, Any] = {
        "dataset_version": "d1",
        "created_at": at(seconds),
        "git_commit": "abc",
        "accuracy": 0.8,
        "accuracy_low": 0.75,
        "accuracy_high": 0.85,
        "size_bytes": 3 * 2**31,
        "expert_labels": 10,
        "auto_labels": 5,
        "seed_labels": 4,
        "gate_reason": "first release",
        "metrics": {"ece": 0.02, "confusion": [[1, 2], [3, 4]]},
        "recipe": {"epochs": 4},
    }
    return release_record(name, TASK, **(values | other))


def test_dataset_versions(database: Database) -> None:
    first, second = dataset("d1", 1), dataset("d2", 2, parent="d1")
    with database.transaction() as tx:
        assert tx.datasets.latest(TASK) is None
        for event in (second, first, dataset("d1", 99)):
            tx.datasets.add(event)
        tx.datasets.add(dataset("d1", 3, task="other"))
        assert tx.datasets.latest(TASK) == second
        assert tx.datasets.history(TASK) == [first, second]


def test_releases_come_back_whole(database: Database) -> None:
    first = release("r1", 1)
    second = release("r2", 2, parent="r1", override=Override(by="ada", why="a test"))
    with database.transaction() as tx:
        for one in (second, first, msgspec.structs.replace(first, accuracy=0.1)):
            tx.releases.add(one)
        assert tx.releases.get("r2") == second
        assert tx.releases.get("r3") is None
        assert tx.releases.history(TASK) == [first, second]
        assert tx.releases.history("other") == []


def test_a_release_says_where_it_is_kept_once_that_is_known(database: Database) -> None:
    kept = KeptRelease(
        release="r1",
        address=f"folder:sha256:{64 * 'a'}:12",
        base_address=f"folder:sha256:{64 * 'b'}:7",
    )
    known = release("r2", 2, address=kept.address)
    with database.transaction() as tx:
        tx.releases.add(release("r1", 1))
        tx.releases.add(known)
        found = tx.releases.get("r1")
        assert found is not None
        assert found.kept is None
        tx.releases.keep(kept)
        tx.releases.keep(msgspec.structs.replace(kept, release="r3"))
        found = tx.releases.get("r1")
        assert found is not None
        assert found.kept == kept
        assert tx.releases.get("r2") == known
        assert tx.releases.get("r3") is None


def test_turns_are_replaced_and_listed_newest_first(database: Database) -> None:
    turn = Turn(
        turn_id="t1", task=TASK, state="running", stage="train", reason="200", started_at=at(1)
    )
    later = msgspec.structs.replace(turn, turn_id="t2", started_at=at(2))
    done = msgspec.structs.replace(
        turn, state="succeeded", ended_at=at(9), release="r1", seconds={"train": 8.5}
    )
    with database.transaction() as tx:
        for one in (turn, later, done):
            tx.turns.save(one)
        assert tx.turns.history(TASK) == [later, done]
        assert tx.turns.history(TASK, limit=1) == [later]


def test_requests_stay_until_they_are_finished(database: Database) -> None:
    asked = TurnRequest(
        request_id="q1",
        task=TASK,
        by="ada",
        why="a broken one",
        at=at(5),
        override=Override(by="ada", why="a test"),
        overrides={"shuffle_labels": True},
    )
    earlier = TurnRequest(request_id="q2", task=TASK, by="bob", why="now", at=at(1))
    with database.transaction() as tx:
        assert tx.turns.take_request(TASK) is None
        for request in (asked, earlier, msgspec.structs.replace(asked, why="again")):
            tx.turns.request(request)
        assert tx.turns.take_request(TASK) == earlier
        assert tx.turns.take_request(TASK, "gone") == earlier
        assert tx.turns.take_request(TASK, "q1") == asked, "the one that a turn was begun for"
        tx.turns.finish_request("q2")
        tx.turns.finish_request("q2")
        assert tx.turns.take_request(TASK) == asked
        tx.turns.finish_request("q1")
        assert tx.turns.take_request(TASK) is None


def test_what_a_turn_that_is_asked_for_has_before_it(database: Database) -> None:
    running = Turn(
        turn_id="q1", task="other", state="running", stage="train", reason="", started_at=at(2)
    )
    asked = TurnRequest(request_id="q2", task=TASK, by="ada", why="now", at=at(1))
    with database.transaction() as tx:
        assert tx.turns.ahead(TASK, {TASK}) == Ahead()
        tx.leases.acquire(presence("trainer", "one"), "one", 60)
        tx.turns.request(asked)
        tx.turns.request(msgspec.structs.replace(asked, request_id="q3", at=at(5)))
        tx.turns.request(msgspec.structs.replace(asked, request_id="q1", task="other"))
        tx.turns.save(running)
        tx.turns.save(msgspec.structs.replace(running, turn_id="t", task="gone"))
        both = {TASK, "other"}
        assert tx.turns.ahead(TASK, both) == Ahead(trainer=True, running=running, asked=2)
        assert tx.turns.ahead(TASK, {TASK}) == Ahead(trainer=True, asked=2)
        assert tx.turns.ahead("other", both) == Ahead(trainer=True, running=running), "that turn"
        tx.turns.finish_request("q2")
        assert tx.turns.ahead(TASK, {TASK}) == Ahead(trainer=True, asked=1)
        tx.leases.acquire(presence("trainer", "two"), "two", 60)
        assert tx.turns.ahead(TASK, both) == Ahead(trainer=True, asked=1), "the other makes it"
        tx.leases.forget(presence("trainer"), "one")
        tx.leases.forget(presence("trainer"), "two")
        assert tx.turns.ahead(TASK, both) == Ahead(running=running, asked=1)


def test_what_a_decision_on_a_turn_hangs_on_is_one_question(database: Database) -> None:
    asked = TurnRequest(request_id="q1", task=TASK, by="ada", why="now", at=at(1))
    turn = Turn(
        turn_id="q1", task=TASK, state="running", stage="train", reason="", started_at=at(2)
    )
    marks = []
    with database.transaction() as tx:

        def look() -> None:
            found = tx.turns.stirred({TASK, "other"})
            assert found["other"] == frozenset()
            marks.append(found[TASK])

        look()
        tx.turns.request(asked)
        tx.turns.request(msgspec.structs.replace(asked, request_id="q2", task="not ours"))
        look()
        tx.turns.save(turn)
        look()
        tx.turns.save(msgspec.structs.replace(turn, state="succeeded", ended_at=at(3)))
        look()
        tx.turns.finish_request("q1")
        look()
    assert marks[0] == marks[4] == frozenset()
    assert marks[1] == marks[3]
    assert len(set(marks)) == 3
