"""A champion that answers nobody gets no traffic back, by a person or by the controller."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rollout_memory import START, Fleet, MemoryDatabase, arm, naming, pairs

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import Latest, tick
from flywheel.rollout.decide import Readiness
from flywheel.rollout.ports import Command, CommandKind

TASK = "topics"
SETTINGS = RolloutSettings(steps=(0.1, 0.5), min_requests=20, min_labels=40, warm_seconds=30)


class World:
    """r2 is at its first step beside r1."""

    def __init__(self) -> None:
        self.db, self.fleet, self.now = MemoryDatabase(), Fleet(), START
        self.latest: Latest = {}
        for release in ("r1", "r2"):
            with self.db.transaction() as tx:
                tx.challengers.enqueue(TASK, release, START, True)
            self.tick()
        event = self.tick()
        assert event is not None
        assert event.state == "canary"

    def tick(self) -> RolloutChanged | None:
        self.now += timedelta(seconds=1)
        return tick(
            self.db.transaction,
            self.db.reading,
            TASK,
            SETTINGS,
            self.fleet,
            self.now,
            self.latest,
        )

    def asks(self, kind: CommandKind, **more: object) -> str:
        """The outcome of a command."""
        command = Command(
            command_id=new_id(),
            task=TASK,
            kind=kind,
            by="ana",
            why="because",
            at=self.now,
            **(naming(self.db, TASK) | more),  # type: ignore[arg-type]
        )
        with self.db.transaction() as tx:
            tx.commands.add(command)
        self.tick()
        return self.db.state.outcomes[command.command_id]


@pytest.fixture
def world() -> World:
    return World()


def test_a_rollback_to_a_champion_that_answers_nobody_is_refused_with_the_reason(
    world: World,
) -> None:
    world.fleet.missing["r1"] = 2
    world.tick()
    outcome = world.asks("rollback")
    assert outcome.startswith(
        "refused: r1, the champion, answers on none of 2 model servers (has not loaded it): "
        "rolled back to it, no request would be answered. Promote r2, or restore"
    )
    world.fleet.missing["r1"] = 0
    world.tick()
    assert world.asks("rollback") == "rolled_back"


def test_it_is_refused_also_when_the_controller_has_only_just_started(world: World) -> None:
    world.latest.clear()
    world.fleet.missing["r1"] = 2
    assert world.asks("rollback").startswith("refused: r1, the champion, answers on none")


@pytest.mark.parametrize(("champion", "challenger"), [(0, 0), (1, 0), (2, 2), (0, 2)])
def test_it_is_not_refused_where_it_takes_no_answer_away(
    world: World, champion: int, challenger: int
) -> None:
    world.fleet.missing = {"r1": champion, "r2": challenger}
    world.tick()
    assert world.asks("rollback") == "rolled_back"


@pytest.mark.parametrize("command", ["rollback", "promote"])
def test_servers_that_are_only_busy_refuse_nobody(world: World, command: CommandKind) -> None:
    world.fleet.late = {"r1": 2, "r2": 0} if command == "rollback" else {"r1": 0, "r2": 2}
    world.tick()
    assert not world.asks(command).startswith("refused")


def test_proven_harm_ends_a_rollout_whose_champion_is_only_busy(world: World) -> None:
    world.fleet.late["r1"] = 2
    world.db.state.pairs = pairs([-1] * 30)
    world.db.state.arms = (arm(100), arm(30))
    event = world.tick()
    assert event is not None
    assert event.state == "rolled_back"


def test_a_challenger_that_is_only_busy_is_not_missing(world: World) -> None:
    world.fleet.late["r2"] = 2
    for _ in range(2 * int(SETTINGS.warm_seconds)):
        assert world.tick() is None


def test_proven_harm_is_held_until_the_champion_answers(world: World) -> None:
    world.fleet.missing["r1"] = 2
    world.db.state.pairs = pairs([-1] * 30)
    world.db.state.arms = (arm(100), arm(30))
    event = world.tick()
    assert event is not None
    assert (event.state, event.split.challenger_share) == ("paused", 0.1)
    assert "accuracy is proven worse" in event.reason
    assert "but r1, the champion, answers on none of 2 model servers" in event.reason
    assert world.tick() is None, "it stays as it is"
    world.fleet.missing["r1"] = 0
    event = world.tick()
    assert event is not None
    assert event.state == "rolled_back"


def test_a_challenger_that_answers_nobody_is_not_promoted(world: World) -> None:
    world.fleet.missing["r2"] = 2
    world.tick()
    assert world.asks("promote") == (
        "refused: r2 answers on none of 2 model servers (has not loaded it): promoted, no request "
        "would be answered"
    )
    world.fleet.missing = {"r1": 2}
    world.tick()
    assert world.asks("promote") == "promoted", "the way out of a champion that is gone"


def test_whoever_asks_waits_for_no_server_that_hangs(world: World) -> None:
    asked = []

    class Hanging(Fleet):
        def ready(self, release: str) -> Readiness:
            asked.append(release)
            return super().ready(release)

    world.tick()
    world.fleet = Hanging()
    assert world.asks("rollback") == "rolled_back"
    assert asked == [], "what the tick before found out is enough"
