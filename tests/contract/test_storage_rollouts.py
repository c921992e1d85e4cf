"""Rollouts, champions, commands and waiting challengers."""

from __future__ import annotations

import msgspec
import pytest
from storage_events import TASK, at

from flywheel.contracts.release import Override
from flywheel.errors import Conflict
from flywheel.registry.served import served_at
from flywheel.rollout.ports import Command, Rollout, Transition
from storage.database import Database

ROLLOUT = Rollout(
    rollout_id="one",
    task=TASK,
    champion="r1",
    challenger="r2",
    state="canary",
    step=1,
    share=0.25,
    started_at=at(0),
    step_started_at=at(5),
    reason="proved at 5 %",
    looks_used=2,
    steps=(0.05, 0.25),
    resume_to="canary",
    unready_since=at(7),
)


def transition(seconds: float, **other: object) -> Transition:
    values: dict[str, object] = {
        "rollout_id": "one",
        "at": at(seconds),
        "state": "canary",
        "share": 0.25,
        "decided_by": "controller",
        "reason": "why",
        "evidence": {"pairs": 12, "checks": [{"name": "harm", "passed": True}]},
    }
    return Transition(**(values | other))  # type: ignore[arg-type]


def test_a_rollout_comes_back_whole_and_is_replaced(database: Database) -> None:
    with database.transaction() as tx:
        assert tx.rollouts.active(TASK) is None
        tx.rollouts.save(ROLLOUT, transition(1))
        begun = msgspec.structs.replace(ROLLOUT, revision=1)
        assert tx.rollouts.active(TASK) == tx.rollouts.find("one") == begun
        assert tx.rollouts.find("two") is None
        ended = msgspec.structs.replace(begun, state="promoted", ended_at=at(9), resume_to=None)
        tx.rollouts.save(ended, transition(9, state="promoted"))
        ended = msgspec.structs.replace(ended, revision=2)
        tx.rollouts.save(ended, None)
        assert tx.rollouts.active(TASK) is None
        assert tx.rollouts.history(TASK) == [ended]
        assert tx.rollouts.transitions("one") == [transition(1), transition(9, state="promoted")]
        assert tx.rollouts.transitions("two") == []


def test_a_rollout_that_has_changed_is_not_overwritten(database: Database) -> None:
    with database.transaction() as tx:
        tx.rollouts.save(ROLLOUT, transition(1))
    for stale in (transition(2), None):
        with pytest.raises(Conflict, match="changed meanwhile"), database.transaction() as tx:
            tx.rollouts.save(ROLLOUT, stale)
    with database.transaction() as tx:
        assert tx.rollouts.transitions("one") == [transition(1)]


def test_a_task_has_one_active_rollout(database: Database) -> None:
    second = msgspec.structs.replace(ROLLOUT, rollout_id="two", started_at=at(50))
    with database.transaction() as tx:
        tx.rollouts.save(ROLLOUT, None)
    with pytest.raises(Conflict), database.transaction() as tx:
        tx.rollouts.save(second, None)
    with database.transaction() as tx:
        tx.rollouts.save(msgspec.structs.replace(ROLLOUT, ended_at=at(49)), None)
        tx.rollouts.save(second, None)
        tx.rollouts.save(msgspec.structs.replace(ROLLOUT, rollout_id="3", task="other"), None)
        assert [r.rollout_id for r in tx.rollouts.history(TASK)] == ["two", "one"]
        assert [r.rollout_id for r in tx.rollouts.history(TASK, 1)] == ["two"]


def test_what_served_at_a_moment(database: Database) -> None:
    first = msgspec.structs.replace(
        ROLLOUT, rollout_id="zero", champion="r1", challenger="r1", state="serving", ended_at=at(0)
    )
    other = msgspec.structs.replace(first, rollout_id="x", task="other", challenger="x1")
    ended = msgspec.structs.replace(ROLLOUT, state="promoted", ended_at=at(9))
    with database.transaction() as tx:
        tx.rollouts.save(first, transition(0, rollout_id="zero", state="serving"))
        tx.rollouts.save(other, transition(0, rollout_id="x", state="serving"))
        tx.rollouts.save(ROLLOUT, transition(1))
        begun = msgspec.structs.replace(ended, revision=1)
        tx.rollouts.save(begun, transition(9, state="promoted"))
    with database.transaction(read_only=True) as tx:
        assert served_at(tx, TASK, at(-1)).release is None
        assert served_at(tx, TASK, at(8)).release == "r1"
        assert served_at(tx, TASK, at(8)).challenger == "r2"
        assert served_at(tx, TASK, at(10**9)).release == "r2"
        assert served_at(tx, "other", at(10**9)).release == "x1"


def test_the_champion_and_who_was_one(database: Database) -> None:
    with database.transaction() as tx:
        assert tx.rollouts.champion(TASK) is None
        tx.rollouts.set_champion(TASK, "r1")
        tx.rollouts.set_champion(TASK, "r1")
        tx.rollouts.set_champion("other", "x1")
        assert tx.rollouts.champion(TASK) == "r1"
        tx.rollouts.set_champion(TASK, "r2")
        assert tx.rollouts.champion(TASK) == "r2"
        assert [tx.rollouts.was_champion(TASK, r) for r in ("r1", "r2", "x1")] == [
            True,
            True,
            False,
        ]


def test_commands_wait_until_they_are_done(database: Database) -> None:
    first = Command(
        command_id="c1",
        task=TASK,
        kind="start",
        by="ada",
        why="try it",
        at=at(2),
        release="r2",
        rollout_id="one",
        revision=4,
        override=Override(by="ada", why="known bad"),
    )
    earlier = Command(
        command_id="c2", task=TASK, kind="pause", by="bob", why="night", at=at(1), rollout_id=None
    )
    with database.transaction() as tx:
        tx.commands.add(first)
        tx.commands.add(earlier)
        tx.commands.add(msgspec.structs.replace(first, why="again"))
        assert tx.commands.pending(TASK) == [earlier, first]
        assert tx.commands.pending("other") == []
        assert tx.commands.done("c2", "paused")
        assert not tx.commands.done("c2", "paused twice")
        assert tx.commands.pending(TASK) == [first]
        assert [(one.command, one.outcome) for one in tx.commands.history(TASK)] == [
            (first, None),
            (earlier, "paused"),
        ]
        asked = tx.commands.asked("c2")
        assert asked is not None
        assert asked.accepted
        assert tx.commands.asked("c3") is None


def test_challengers_wait_for_their_turn(database: Database) -> None:
    with database.transaction() as tx:
        tx.challengers.enqueue(TASK, "late", at(3), True)
        tx.challengers.enqueue(TASK, "early", at(1), True)
        tx.challengers.enqueue(TASK, "refused", at(0), False)
        tx.challengers.enqueue(TASK, "early", at(9), False)
        tx.challengers.enqueue("other", "another", at(0), True)
        assert tx.challengers.waiting(TASK) == ["early", "late"]
        assert tx.challengers.gate(TASK, "refused") is False
        assert tx.challengers.gate(TASK, "early") is True
        assert tx.challengers.gate(TASK, "another") is None
        tx.challengers.taken("early")
        tx.challengers.taken("early")
        assert tx.challengers.waiting(TASK) == ["late"]
        tx.challengers.taken("first taken")
        tx.challengers.enqueue(TASK, "first taken", at(0), True)
        assert tx.challengers.waiting(TASK) == ["late"]
