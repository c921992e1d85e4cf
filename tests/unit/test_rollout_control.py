"""The controller's step on an in-memory transaction: the whole path, commands, crashes."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from rollout_memory import START, Crash, Fleet, MemoryDatabase, arm, naming, of_ten, pairs

from flywheel.contracts.events import ReleaseRegistered, RolloutChanged
from flywheel.contracts.ids import new_id
from flywheel.contracts.release import Override
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import announce, on_release_registered, tick
from flywheel.rollout.ports import Assignment, Command, CommandKind

TASK = "topics"
SETTINGS = RolloutSettings(
    steps=(0.1, 0.5), min_requests=20, min_labels=40, max_minutes=60, warm_seconds=30
)


class World:
    """A controller with its database, its servers and a clock."""

    def __init__(self, settings: RolloutSettings = SETTINGS) -> None:
        self.db = MemoryDatabase()
        self.fleet = Fleet()
        self.settings = settings
        self.now = START

    def tick(self, seconds: float = 1) -> RolloutChanged | None:
        self.now += timedelta(seconds=seconds)
        return tick(self.db.transaction, self.db.reading, TASK, self.settings, self.fleet, self.now)

    def register(self, release: str, passed: bool = True, override: Override | None = None) -> None:
        event = ReleaseRegistered(
            event_id=new_id(),
            occurred_at=self.now,
            task=TASK,
            release=release,
            dataset_version="v1",
            parent=None,
            accuracy=0.9,
            gate_passed=passed,
            gate_reason="",
            override=override,
        )
        on_release_registered(self.db.transaction, event)

    def command(self, kind: CommandKind, **more: object) -> str:
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
        return command.command_id

    def evidence(self, d: list[int], champion: int, challenger: int, **more: float) -> None:
        self.db.state.pairs = pairs(d)
        errors = int(more.get("errors", 0))
        ms = more.get("ms", 20.0)
        self.db.state.arms = (arm(champion), arm(challenger, errors, ms, shadow=champion))
        self.db.state.assignment = of_ten(champion, challenger)

    def canary(self) -> None:
        """A champion, and a challenger at the first step."""
        self.register("r1")
        self.tick()
        self.register("r2")
        self.tick()
        event = self.tick()
        assert event is not None
        assert event.state == "canary"


@pytest.fixture
def world() -> World:
    return World()


GOOD = [1, 0, 0, 0, 0, 0, 0, 1, 0, 0]


def test_the_first_release_becomes_champion_at_once(world: World) -> None:
    assert world.tick() is None
    world.register("r1")
    event = world.tick()
    assert event is not None
    assert (event.state, event.decided_by, event.reason) == (
        "serving",
        "controller",
        "first release",
    )
    assert event.split.champion == "r1"
    assert event.split.challenger is None
    assert world.db.state.sent == [event]
    assert world.tick() is None


def test_a_better_challenger_goes_up_step_by_step_and_is_promoted(world: World) -> None:
    world.register("r1")
    world.tick()
    world.register("r2")
    begun = world.tick()
    assert begun is not None
    assert begun.state == "warming"
    assert (begun.split.champion, begun.split.challenger) == ("r1", "r2")
    assert begun.split.challenger_share == begun.split.shadow_share == 0
    canary = world.tick()
    assert canary is not None
    assert (canary.state, canary.split.challenger_share, canary.split.shadow_share) == (
        "canary",
        0.1,
        1.0,
    )
    assert world.tick() is None, "no evidence yet"
    world.evidence(GOOD * 2, 200, 25)
    up = world.tick()
    assert up is not None
    assert (up.step, up.split.challenger_share) == (1, 0.5)
    world.evidence(GOOD * 10, 500, 350)
    done = world.tick()
    assert done is not None
    assert done.state == "promoted"
    assert "proven within" in done.reason
    assert (done.split.champion, done.split.challenger) == ("r2", None)
    assert world.db.state.champions == {TASK: "r2"}
    assert world.tick() is None


def test_a_broken_challenger_is_rolled_back_with_the_numbers(world: World) -> None:
    world.canary()
    world.evidence([-1] * 12 + [0] * 3, 150, 15)
    event = world.tick()
    assert event is not None
    assert event.state == "rolled_back"
    assert "accuracy is proven worse" in event.reason
    assert "15 audited samples" in event.reason
    assert (event.split.champion, event.split.challenger) == ("r1", None)
    assert world.db.state.champions == {TASK: "r1"}


@pytest.mark.parametrize(("errors", "ms", "word"), [(20, 20.0, "error rate"), (0, 90.0, "slower")])
def test_errors_and_latency_roll_back(world: World, errors: int, ms: float, word: str) -> None:
    world.canary()
    world.evidence([], 500, 40, errors=errors, ms=ms)
    event = world.tick()
    assert event is not None
    assert event.state == "rolled_back"
    assert word in event.reason


def test_harm_ends_a_paused_rollout_too(world: World) -> None:
    world.canary()
    world.command("pause")
    paused = world.tick()
    assert paused is not None
    assert (paused.state, paused.split.challenger_share, paused.decided_by) == (
        "paused",
        0.1,
        "ana",
    )
    world.evidence(GOOD * 20, 900, 900)
    assert world.tick() is None, "a paused rollout is not promoted"
    world.evidence([-1] * 30, 900, 900)
    event = world.tick()
    assert event is not None
    assert event.state == "rolled_back"


def test_pause_and_resume_return_to_the_same_step(world: World) -> None:
    world.canary()
    world.command("pause")
    world.tick()
    world.command("resume")
    event = world.tick()
    assert event is not None
    assert (event.state, event.step, event.split.challenger_share) == ("canary", 0, 0.1)
    assert "because" in event.reason


def test_people_promote_and_roll_back(world: World) -> None:
    world.canary()
    world.command("rollback")
    event = world.tick()
    assert event is not None
    assert (event.state, event.decided_by) == ("rolled_back", "ana")
    restarted = world.command("start", release="r2")
    event = world.tick()
    assert event is not None
    assert event.state == "warming"
    assert world.db.state.outcomes[restarted] == "warming"
    too_early = world.command("promote")
    world.tick()
    assert world.db.state.outcomes[too_early].startswith("refused")
    world.command("promote")
    event = world.tick()
    assert event is not None
    assert event.state == "promoted"
    assert event.split.champion == "r2"


def test_start_needs_a_known_release_and_an_override_past_the_gate(world: World) -> None:
    world.register("r1")
    world.tick()
    world.register("bad", passed=False)
    assert world.tick() is None, "what failed the gate does not start by itself"
    unknown = world.command("start", release="nowhere")
    plain = world.command("start", release="bad")
    assert world.tick() is None
    assert "no registered release" in world.db.state.outcomes[unknown]
    assert "override" in world.db.state.outcomes[plain]
    world.command("start", release="bad", override=Override(by="ana", why="to see it fail"))
    event = world.tick()
    assert event is not None
    assert "to see it fail" in event.reason


def test_an_overridden_registration_starts_by_itself(world: World) -> None:
    world.register("r1")
    world.tick()
    world.register("bad", passed=False, override=Override(by="ana", why="demo"))
    event = world.tick()
    assert event is not None
    assert event.split.challenger == "bad"


def test_the_newest_waiting_release_wins_and_none_starts_meanwhile(world: World) -> None:
    world.canary()
    world.register("r3")
    world.register("r4")
    assert world.tick() is None
    world.command("rollback")
    world.tick()
    event = world.tick()
    assert event is not None
    assert event.split.challenger == "r4"
    assert "r3" in event.reason
    world.command("rollback")
    world.tick()
    assert world.tick() is None, "r3 was passed over"


def test_a_challenger_that_cannot_be_loaded_fails(world: World) -> None:
    world.fleet.missing["r2"] = 1
    world.register("r1")
    world.tick()
    world.register("r2")
    world.tick()
    assert world.tick() is None
    assert world.tick(29) is None
    event = world.tick(5)
    assert event is not None
    assert event.state == "rolled_back"
    assert event.reason.startswith("failed: r2 could not be loaded: on 1 of 2")


def test_servers_that_are_all_down_say_nothing_about_the_challenger(world: World) -> None:
    world.fleet.missing = {"r1": 2, "r2": 2}
    world.register("r1")
    world.tick()
    world.register("r2")
    world.tick()
    assert world.tick(1) is None
    assert world.tick(3000) is None
    world.fleet.missing = {}
    event = world.tick()
    assert event is not None
    assert event.state == "canary"


def test_a_challenger_that_dies_is_rolled_back_but_not_for_a_moment(world: World) -> None:
    world.canary()
    world.fleet.missing["r2"] = 2
    assert world.tick() is None
    world.fleet.missing["r2"] = 0
    assert world.tick(40) is None
    world.fleet.missing["r2"] = 2
    assert world.tick() is None
    event = world.tick(31)
    assert event is not None
    assert "stopped answering" in event.reason


def test_shadow_comes_before_live_traffic_when_asked_for() -> None:
    world = World(SETTINGS.model_copy(update={"shadow_requests": 30}))
    world.register("r1")
    world.tick()
    world.register("r2")
    world.tick()
    event = world.tick()
    assert event is not None
    assert (event.state, event.split.challenger_share, event.split.shadow_share) == (
        "shadow",
        0.0,
        1.0,
    )
    assert world.tick() is None
    world.db.state.arms = (arm(40), arm(0, shadow=30))
    event = world.tick()
    assert event is not None
    assert (event.state, event.step) == ("canary", 0)


def test_too_long_goes_to_a_person_and_resuming_gives_more_time(world: World) -> None:
    world.canary()
    event = world.tick(3601)
    assert event is not None
    assert event.state == "paused"
    assert "no decision after 60 minutes" in event.reason
    world.command("resume")
    world.tick()
    assert world.tick(3000) is None
    event = world.tick(700)
    assert event is not None
    assert event.state == "paused"


def test_a_broken_assignment_pauses(world: World) -> None:
    world.canary()
    world.db.state.assignment = Assignment(
        champion_requests=100, challenger_requests=60, champion_units=100, challenger_units=60
    )
    event = world.tick()
    assert event is not None
    assert event.state == "paused"
    assert "60 of 160 units, 10% expected" in event.reason


def test_no_promotion_without_proof_and_a_person_after_the_last_look(world: World) -> None:
    world.canary()
    world.evidence([1, -1, 0, 0] * 10, 900, 30)
    world.tick()
    world.evidence([1, -1, 0, 0] * 49, 900, 900)
    assert world.tick() is None
    world.evidence([1, -1, 0, 0] * 50, 900, 900)
    event = world.tick()
    assert event is not None
    assert event.state == "paused"
    assert "looks are used without proof" in event.reason


def test_auto_promote_off_leaves_it_to_a_person() -> None:
    world = World(SETTINGS.model_copy(update={"auto_promote": False}))
    world.canary()
    world.evidence(GOOD * 10, 500, 350)
    world.tick()
    event = world.tick()
    assert event is not None
    assert event.state == "paused"
    assert "auto_promote is off" in event.reason
    world.command("promote")
    event = world.tick()
    assert event is not None
    assert event.state == "promoted"


@pytest.mark.parametrize("crash_at", [0, 1, 2])
def test_killed_anywhere_the_next_tick_goes_on(crash_at: int) -> None:
    smooth, rough = World(), World()
    for world in (smooth, rough):
        world.canary()
        world.command("pause")
        world.tick()
        world.command("resume")
        world.tick()
        world.evidence(GOOD * 2, 200, 25)
    rough.db.crash_at = crash_at
    states = []
    for world in (smooth, rough):
        for _ in range(4):
            with contextlib.suppress(Crash):
                world.tick()
        world.evidence(GOOD * 10, 500, 350)
        for _ in range(3):
            world.tick()
        states.append([(e.state, e.step, e.split.challenger_share) for e in world.db.state.sent])
    assert states[0] == states[1]
    assert len(rough.db.state.transitions) == len(rough.db.state.sent)


def test_announce_repeats_the_whole_split(world: World) -> None:
    assert announce(world.db.transaction, TASK, SETTINGS, world.now) is None
    world.canary()
    event = announce(world.db.transaction, TASK, SETTINGS, world.now)
    assert event is not None
    assert event.split == world.db.state.sent[-2].split
    assert event.event_id != world.db.state.sent[-2].event_id
