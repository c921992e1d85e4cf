"""Rolling back to a former champion: one command, once it answers, whatever else happens."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta

import pytest
from rollout_memory import START, Crash, Fleet, MemoryDatabase, naming

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick
from flywheel.rollout.ports import Command, CommandKind

TASK = "topics"
SETTINGS = RolloutSettings(steps=(0.1, 0.5), warm_seconds=30)


class World:
    """A controller, its servers and a clock: r1 was champion, r2 is."""

    def __init__(self) -> None:
        self.db = MemoryDatabase()
        self.fleet = Fleet()
        self.now: datetime = START
        self.register("r1")
        self.tick()
        self.register("r2")
        self.tick()
        self.tick()
        self.command("promote")
        self.tick()
        assert self.champion == "r2"

    @property
    def champion(self) -> str:
        return self.db.state.champions[TASK]

    def tick(self, seconds: float = 1) -> RolloutChanged | None:
        self.now += timedelta(seconds=seconds)
        return tick(self.db.transaction, self.db.reading, TASK, SETTINGS, self.fleet, self.now)

    def register(self, release: str) -> None:
        with self.db.transaction() as tx:
            tx.challengers.enqueue(TASK, release, self.now, True)

    def command(self, kind: CommandKind, release: str | None = None) -> str:
        command = Command(
            command_id=new_id(),
            task=TASK,
            kind=kind,
            by="ana",
            why="because",
            at=self.now,
            **naming(self.db, TASK),  # type: ignore[arg-type]
            release=release,
        )
        with self.db.transaction() as tx:
            tx.commands.add(command)
        return command.command_id


@pytest.fixture
def world() -> World:
    return World()


def test_a_former_champion_takes_over_once_it_answers(world: World) -> None:
    world.fleet.missing["r1"] = 1
    command = world.command("restore", release="r1")
    event = world.tick()
    assert event is not None
    assert (event.state, event.decided_by) == ("warming", "ana")
    assert (event.split.champion, event.split.challenger) == ("r2", "r1")
    assert event.split.challenger_share == 0.0
    assert world.db.state.outcomes[command] == "warming"
    assert world.tick() is None, "it has not been loaded everywhere"
    world.fleet.missing["r1"] = 0
    event = world.tick()
    assert event is not None
    assert (event.state, event.decided_by, event.split.champion) == ("promoted", "ana", "r1")
    assert event.split.challenger is None
    assert "because" in event.reason
    assert "answers on 2 of 2 model servers" in event.reason
    assert world.champion == "r1"


def test_a_restore_ends_the_rollout_that_runs(world: World) -> None:
    world.register("r3")
    world.tick()
    world.tick()
    world.command("restore", release="r1")
    world.tick()
    ended, begun = world.db.state.sent[-2:]
    assert (ended.state, ended.challenger) == ("rolled_back", "r3")
    assert "r1 is restored: because" in ended.reason
    assert (begun.state, begun.challenger) == ("warming", "r1")
    event = world.tick()
    assert event is not None
    assert (event.state, event.split.champion) == ("promoted", "r1")


def test_only_a_former_champion_is_restored(world: World) -> None:
    world.register("r3")
    world.tick()
    for release, words in (("r3", "never the champion"), ("r2", "instead"), (None, "needs")):
        refused = world.command("restore", release=release)
        world.tick()
        assert words in world.db.state.outcomes[refused]
    assert world.champion == "r2"


@pytest.mark.parametrize("kind", ["restore", "start"])
def test_what_was_pruned_is_not_tried(world: World, kind: CommandKind) -> None:
    """Whoever asked looked at its bytes before they went."""
    world.db.state.pruned["r1"] = "release r1 was pruned"
    refused = world.command(kind, release="r1")
    world.tick()
    assert world.db.state.outcomes[refused].endswith("release r1 was pruned")
    assert world.champion == "r2"


def test_a_former_champion_that_cannot_be_loaded_changes_nothing(world: World) -> None:
    world.fleet.missing["r1"] = 2
    world.command("restore", release="r1")
    world.tick()
    world.tick()
    event = world.tick(31)
    assert event is not None
    assert (event.state, event.split.champion) == ("rolled_back", "r2")
    assert "could not be loaded" in event.reason
    assert world.champion == "r2"


def test_a_champion_that_no_server_can_load_is_replaced_all_the_same(world: World) -> None:
    world.fleet.missing["r2"] = 2
    world.command("restore", release="r1")
    world.tick()
    event = world.tick()
    assert event is not None
    assert (event.state, event.split.champion) == ("promoted", "r1")


@pytest.mark.parametrize("transaction", [0, 1, 2])
def test_a_controller_that_dies_while_restoring_goes_on(world: World, transaction: int) -> None:
    world.command("restore", release="r1")
    world.db.crash_at = transaction
    for _ in range(4):
        with contextlib.suppress(Crash):
            world.tick()
    assert world.champion == "r1"
    assert [e.state for e in world.db.state.sent[-2:]] == ["warming", "promoted"]
