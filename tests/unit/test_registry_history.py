"""A release's status history and what served when, from what trainer and controller recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_files import START, TASK, make_release
from rollout_memory import MemoryDatabase, naming

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.ids import new_id
from flywheel.contracts.release import Override, Release
from flywheel.registry.history import ALL, current_status, read_history, status_history
from flywheel.registry.served import served_at
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick
from flywheel.rollout.decide import Readiness
from flywheel.rollout.ports import Command, CommandKind, Rollout

SETTINGS = RolloutSettings(steps=(0.1, 0.5), warm_seconds=30)


def release(name: str, **changes: Any) -> Release:
    values: dict[str, Any] = {
        "release": name,
        "task": TASK,
        "dataset_version": f"d-{name}",
        "parent": None,
        "created_at": START,
        "git_commit": "abc",
        "accuracy": 0.9,
        "accuracy_low": 0.8,
        "accuracy_high": 0.95,
        "size_bytes": 1,
        "expert_labels": 5,
        "auto_labels": 0,
        "auto_label_error": None,
        "gate_passed": True,
        "gate_reason": "no worse",
        "recipe": {
            "training": {"epochs": 3},
            "parts": {"deployment": "vllm", "feature_view": "f/1"},
            "served": {"method": "w8a8", "prompt": {"system": "Answer."}},
        },
    }
    return Release(**(values | changes))


@dataclass
class Servers:
    """Model servers that lack some releases, and say why."""

    missing: dict[str, str]

    def ready(self, name: str) -> Readiness:
        why = self.missing.get(name)
        return Readiness(ready=0 if why else 1, total=1, reason=why or "")


class _Releases:
    def __init__(self, known: list[Release]) -> None:
        self._known = known

    def get(self, name: str) -> Release | None:
        return next((row for row in self._known if row.release == name), None)

    def history(self, task: str) -> list[Release]:
        return self._known


class _Datasets:
    def history(self, task: str) -> list[DatasetVersioned]:
        return [
            DatasetVersioned(
                event_id=new_id(),
                occurred_at=START,
                task=task,
                version="d-r1",
                parent=None,
                git_commit="g",
                dvc_hash="h",
                watermark="7",
                expert_labels=5,
                auto_labels=0,
                holdout_labels=2,
            )
        ]


class World:
    """A real controller over stores in memory, and what the registry reads of them."""

    def __init__(self) -> None:
        self.db = MemoryDatabase()
        self.now: datetime = START
        self.servers = Servers({})
        self.known = [release(f"r{n}") for n in range(1, 6)]

    def register(self, name: str) -> None:
        with self.db.transaction() as tx:
            tx.challengers.enqueue(TASK, name, self.now, True)
        self.tick()

    def tick(self, times: int = 1, seconds: float = 10) -> None:
        for _ in range(times):
            self.now += timedelta(seconds=seconds)
            tick(self.db.transaction, self.db.reading, TASK, SETTINGS, self.servers, self.now)

    def command(self, kind: CommandKind, name: str | None = None) -> None:
        command = Command(
            command_id=new_id(),
            task=TASK,
            kind=kind,
            by="ana",
            why="because",
            at=self.now,
            **naming(self.db, TASK),  # type: ignore[arg-type]
            release=name,
        )
        with self.db.transaction() as tx:
            tx.commands.add(command)
        self.tick()

    @property
    def rollouts(self) -> Any:
        with self.db.transaction() as tx:
            return tx.rollouts

    @property
    def releases(self) -> Any:
        return _Releases(self.known)

    @property
    def datasets(self) -> Any:
        return _Datasets()

    def statuses(self, name: str) -> list[tuple[str, str]]:
        found = self.releases.get(name)
        return [(change.status, change.by) for change in read_history(self, found)]


@pytest.fixture
def world() -> World:
    """r1 is champion since 10 s; r2 became canary at 30 s and champion at 40 s."""
    made = World()
    made.register("r1")
    made.register("r2")
    made.tick()
    made.command("promote")
    return made


def test_the_history_of_releases_that_replace_each_other(world: World) -> None:
    assert world.statuses("r1") == [
        ("registered", "gate"),
        ("champion", "controller"),
        ("retired", "ana"),
    ]
    assert world.statuses("r2") == [
        ("registered", "gate"),
        ("canary", "controller"),
        ("champion", "ana"),
    ]
    retired = read_history(world, world.known[0])[-1]
    assert retired.at == START + timedelta(seconds=40)
    assert retired.reason == "r2 took over: promoted: because"


def test_a_restored_champion_has_served_twice(world: World) -> None:
    world.command("restore", "r1")
    world.tick()
    assert world.statuses("r1")[-1] == ("champion", "ana")
    assert world.statuses("r2")[-1] == ("retired", "ana")
    last = read_history(world, world.known[0])[-1]
    assert "because" in last.reason
    assert last.share == 1.0


def test_a_challenger_that_cannot_be_loaded_shows_the_servers_reason(world: World) -> None:
    world.servers.missing["r3"] = "model.safetensors is not the file that was released"
    world.register("r3")
    world.tick(5)
    (registered, failed) = read_history(world, world.known[2])
    assert (registered.status, failed.status) == ("registered", "rolled_back")
    assert "could not be loaded" in failed.reason
    assert "model.safetensors is not the file that was released" in failed.reason


def test_an_override_is_whose_it_is() -> None:
    row = release(
        "r9", gate_passed=False, gate_reason="worse", override=Override(by="bob", why="a drill")
    )
    (registered,) = status_history(row, [])
    assert (registered.by, registered.reason) == (
        "bob",
        "put past the gate: a drill (the gate: worse)",
    )


def rollout(**changes: Any) -> Rollout:
    values: dict[str, Any] = {
        "rollout_id": "r",
        "task": TASK,
        "champion": "a",
        "challenger": "b",
        "state": "canary",
        "step": 1,
        "share": 0.25,
        "started_at": START,
        "step_started_at": START,
    }
    return Rollout(**(values | changes))


def test_a_release_is_what_its_latest_rollout_made_of_it() -> None:
    ended = rollout(state="promoted", ended_at=START)
    again = rollout(champion="b", challenger="c", state="rolled_back", ended_at=START)
    past = [again, ended]
    assert current_status("b", "b", past) == "champion"
    assert current_status("c", "b", past) == "rolled_back"
    assert current_status("a", "b", past) == "retired"
    assert current_status("d", "b", past) == "registered"
    assert current_status("b", "a", [rollout()]) == "canary"


def test_a_release_that_is_only_being_loaded_is_what_it_was() -> None:
    warming = rollout(state="warming")
    assert current_status("b", "a", [warming]) == "registered"
    before = rollout(state="rolled_back", ended_at=START)
    assert current_status("b", "a", [warming, before]) == "rolled_back"


def test_what_served_when(world: World) -> None:
    def at(seconds: float) -> Any:
        return served_at(world, TASK, START + timedelta(seconds=seconds))

    assert at(9.9).release is None
    first = at(10)
    assert (first.release, first.dataset_version) == ("r1", "d-r1")
    assert first.dataset is not None
    assert first.dataset.dvc_hash == "h"
    assert (first.engine, first.feature_view) == ("vllm", "f/1")
    assert first.prompt == {"system": "Answer."}
    assert first.recipe == {"training": {"epochs": 3}}
    assert (first.champion_share, first.challenger) == (1.0, None)
    warming = at(25)
    assert (warming.challenger, warming.rollout_state, warming.challenger_share) == (
        "r2",
        "warming",
        0.0,
    )
    canary = at(39)
    assert (canary.release, canary.challenger, canary.rollout_state) == ("r1", "r2", "canary")
    assert (canary.champion_share, canary.challenger_share) == (0.9, 0.1)
    later = at(40)
    assert (later.release, later.challenger, later.champion_share) == ("r2", None, 1.0)
    assert (later.decided_by, later.since) == ("ana", START + timedelta(seconds=40))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["register", "promote", "rollback", "restore", "pause", "tick"]),
            st.integers(1, 5),
        ),
        max_size=25,
    )
)
def test_history_and_served_agree_with_the_controller(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: one champion at every moment, the one that traffic had."""
    world = World()
    truth: list[tuple[datetime, str | None]] = []
    for kind, number in steps:
        if kind == "register":
            world.register(f"r{number}")
        elif kind == "tick":
            world.tick()
        else:
            world.command(kind, f"r{number}" if kind == "restore" else None)  # type: ignore[arg-type]
        truth.append((world.now, world.db.state.champions.get(TASK)))
    for moment, champion in truth:
        found = served_at(world, TASK, moment)
        assert found.release == champion
        assert found.champion_share + found.challenger_share == (1.0 if champion else 0.0)
    serving, rollouts = world.rollouts.champion(TASK), world.rollouts.history(TASK, ALL)
    trying = {(one.champion, one.challenger) for one in rollouts if one.ended_at is None}
    for row in world.known:
        # One that is tried against itself is both.
        if (row.release, row.release) not in trying:
            now = current_status(row.release, serving, rollouts)
            assert now == read_history(world, row)[-1].status
    now_serve = [
        row.release for row in world.known if read_history(world, row)[-1].status == "champion"
    ]
    last = truth[-1][1] if truth else None
    active = [r.challenger for r in world.db.state.rollouts.values() if r.ended_at is None]
    assert set(now_serve) - set(active) == ({last} if last else set()) - set(active)


def test_there_is_no_release_that_the_gate_did_not_see(tmp_path: Any) -> None:
    """Neither in memory, nor in a folder, nor read from one."""
    with pytest.raises(ValueError, match="did not pass the gate"):
        release("r1", gate_passed=False)
    with pytest.raises(ValueError, match="did not pass the gate"):
        make_release(tmp_path, gate_passed=False, gate_reason="worse")
    assert not list((tmp_path / "releases").glob("*"))
    raw = msgspec.to_builtins(release("r1")) | {"gate_passed": False}
    with pytest.raises(msgspec.ValidationError, match="did not pass the gate"):
        msgspec.convert(raw, Release)


def test_utc_is_kept() -> None:
    assert status_history(release("r1"), [])[0].at.tzinfo == UTC
