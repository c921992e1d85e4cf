"""What a rollout says of its decisions: as they were made, by whom, on which evidence."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from release_records import release_record
from rollout_memory import START, Fleet, MemoryDatabase, arm, naming, of_ten, pairs

import flywheel.rollout.control
from flywheel.contracts.ids import new_id
from flywheel.contracts.release import Override, Release
from flywheel.rollout.analysis.assess import assess
from flywheel.rollout.analysis.evidence import Facts
from flywheel.rollout.commands import ask
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import LastLook, Latest, gather, tick
from flywheel.rollout.judged import JudgedSamples
from flywheel.rollout.ports import Command, CommandKind, Rollout
from flywheel.rollout.view import RolloutView, rollout_view

TASK = "topics"
SETTINGS = RolloutSettings(steps=(0.005, 0.5), min_requests=20, min_labels=20, latency_margin=3.0)


def release(name: str, **more: Any) -> Release:
    return release_record(name, TASK, **({"created_at": START} | more))


class World:
    """A controller, a clock, and people; r1 serves and r2 is at its first step."""

    def __init__(self) -> None:
        self.db = MemoryDatabase()
        self.now = START
        for name in ("r1", "r2"):
            self.register(name)
        self.tick()

    def register(self, name: str) -> None:
        with self.db.transaction() as tx:
            tx.challengers.enqueue(TASK, name, self.now, True)
        self.tick()

    def tick(self) -> None:
        self.now += timedelta(seconds=10)
        tick(self.db.transaction, self.db.reading, TASK, SETTINGS, Fleet(), self.now)

    def asks(self, kind: CommandKind, **more: Any) -> str:
        values = naming(self.db, TASK) | more
        command = Command(
            command_id=new_id(),
            task=TASK,
            kind=kind,
            by="ana",
            why="the reason",
            at=self.now,
            **values,  # type: ignore[arg-type]
        )
        with self.db.transaction() as tx:
            return ask(tx, command)

    @property
    def newest(self) -> Rollout:
        with self.db.reading() as tx:
            return tx.rollouts.history(TASK, 1)[0]

    def view(self) -> RolloutView:
        with self.db.reading() as tx:
            return rollout_view(tx, self.newest, SETTINGS, self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_labels_that_come_later_do_not_change_what_was_decided(world: World) -> None:
    world.db.state.pairs = pairs([-1] * 20)
    world.db.state.arms = (arm(100), arm(10))
    world.tick()
    decided = world.view()
    world.db.state.pairs = pairs([1] * 200)
    world.db.state.arms = (arm(900), arm(500, 40))
    assert world.view() == decided
    assert decided.paired is not None
    assert (decided.paired.n, decided.paired.only_champion_right) == (20, 20)
    assert decided.challenger is not None
    assert decided.challenger.requests == 10
    assert decided.decided_on == decided.transitions[-1]
    harm = next(c for c in decided.checks if (c.kind, c.name) == ("harm", "accuracy"))
    assert harm.outcome == "failed"
    assert harm.words in decided.rollout.reason


def test_what_a_person_decides_keeps_its_evidence_too(world: World) -> None:
    world.db.state.pairs = pairs([0] * 7)
    world.db.state.arms = (arm(300), arm(30))
    assert world.asks("promote") == ""
    world.tick()
    world.db.state.pairs = []
    found = world.view()
    assert found.rollout.state == "promoted"
    assert found.paired is not None
    assert found.paired.n == 7
    assert found.decided_on == found.transitions[-1]


def test_a_rollout_of_before_evidence_was_kept_says_so(world: World) -> None:
    world.asks("rollback")
    world.tick()
    plain = [msgspec.structs.replace(one, evidence={}) for one in world.db.state.transitions]
    world.db.state.transitions = plain
    found = world.view()
    assert (found.champion, found.challenger, found.paired, found.checks) == (None, None, None, ())
    assert found.decided_on is None


def test_evidence_as_it_was_kept_before_is_read(world: World) -> None:
    world.db.state.arms = (arm(100), arm(10, 1))
    world.asks("rollback")
    world.tick()
    last = world.db.state.transitions[-1]
    old = {
        "pairs": 3,
        "looks_used": 0,
        "requests": {"champion": 100, "challenger": 10},
        "errors": {"champion": 0, "challenger": 1},
        "checks": last.evidence["checks"],
    }
    world.db.state.transitions[-1] = msgspec.structs.replace(last, evidence=old)
    found = world.view()
    assert found.challenger is not None
    assert (found.challenger.requests, found.challenger.error_rate) == (10, 0.1)
    assert (found.challenger.accuracy, found.paired) == (None, None)
    assert len(found.checks) == len(last.evidence["checks"])  # type: ignore[arg-type]


def test_who_put_a_challenger_past_its_gate_is_told() -> None:
    world = World()
    override = Override(by="bob", why="a fire drill")
    bad = release("r3", gate_passed=False, gate_reason="loses 9 points", override=override)
    world.db.state.registry = {"r2": release("r2"), "r3": bad}
    passed = world.view().gate
    assert passed is not None
    assert passed.passed
    world.asks("rollback")
    world.tick()
    world.register("r3")
    found = world.view()
    assert found.rollout.reason == (
        "put past the gate by bob: a fire drill (the gate: loses 9 points)"
    )
    assert found.gate is not None
    assert (found.gate.passed, found.gate.reason, found.gate.override) == (
        False,
        "loses 9 points",
        override,
    )


def test_a_refusal_stays_with_the_rollout_that_it_was_about(world: World) -> None:
    ours = world.newest
    assert "not paused but canary at 0.5%" in world.asks("resume")
    world.asks("rollback")
    world.tick()
    (kept,) = world.view().refused
    assert (kept.command.kind, kept.command.by) == ("resume", "ana")
    assert kept.outcome is not None
    assert kept.outcome.startswith("refused: the rollout is not paused")
    world.register("r3")
    assert world.view().refused == ()
    named = {"rollout_id": ours.rollout_id, "revision": ours.revision}
    for kind in ("pause", "resume", "promote", "rollback"):
        refused = world.asks(kind, **named)  # type: ignore[arg-type]
        assert refused.startswith("the rollout of r2 has ended: rolled back: the reason")
        assert "what runs is that of r3, warming" in refused


def test_a_step_taken_meanwhile_refuses_a_promotion_and_no_pause(world: World) -> None:
    seen = {"rollout_id": world.newest.rollout_id, "revision": world.newest.revision}
    world.db.state.pairs = pairs([0] * 20)
    world.db.state.arms = (arm(500), arm(500))
    world.db.state.assignment = of_ten(500, 500)
    world.tick()
    assert world.newest.step == 1
    assert "has changed since" in world.asks("promote", **seen)
    assert world.asks("pause", **seen) == ""
    world.tick()
    assert world.newest.state == "paused"
    assert "has changed since" in world.asks("resume", **seen)


def test_a_start_is_refused_when_a_rollout_has_been_since_it_was_asked_for(world: World) -> None:
    world.asks("rollback")
    world.tick()
    seen = {"rollout_id": world.newest.rollout_id, "revision": world.newest.revision}
    world.register("r3")
    world.asks("rollback")
    world.tick()
    assert "r3 has been since this was asked for" in world.asks("start", release="r2", **seen)
    assert world.asks("start", release="r2") == ""


def test_a_restore_ends_no_rollout_that_its_asker_had_not_seen(world: World) -> None:
    world.asks("promote")
    world.tick()
    seen = {"rollout_id": None}
    world.register("r3")
    assert "r3 has begun since" in world.asks("restore", release="r1", **seen)
    assert world.asks("restore", release="r1") == ""


def test_a_pause_takes_nothing_of_a_step_away(world: World) -> None:
    began = world.newest.step_started_at
    for kind in ("pause", "resume"):
        world.asks(kind)  # type: ignore[arg-type]
        world.tick()
    assert world.newest.state == "canary"
    assert world.newest.step_started_at == began
    assert world.newest.resumed_at == world.now


def test_what_passed_its_gate_is_not_past_it_and_what_was_put_past_says_so(world: World) -> None:
    override = Override(by="eve", why="the drill")
    failed = release("r2", gate_passed=False, gate_reason="worse by 3 points", override=override)
    world.asks("rollback")
    world.tick()
    # An override was given, and the gate had passed: nothing is past it.
    world.db.state.registry["r2"] = release("r2")
    world.asks("start", release="r2", override=Override(by="ana", why="to be sure"))
    world.tick()
    assert world.newest.reason == "started: the reason"
    world.asks("rollback")
    world.tick()
    # It was put past the gate when it was registered; whoever starts it needs no override.
    world.db.state.registry["r2"] = failed
    world.asks("start", release="r2")
    world.tick()
    assert world.newest.reason == (
        "started: the reason; put past the gate by eve: the drill (the gate: worse by 3 points)"
    )


def test_a_first_release_that_was_put_past_the_gate_says_so() -> None:
    world = World.__new__(World)
    world.db, world.now = MemoryDatabase(), START
    override = Override(by="eve", why="the drill")
    world.db.state.registry["r1"] = release(
        "r1", gate_passed=False, gate_reason="no holdout", override=override
    )
    world.register("r1")
    assert world.newest.reason == (
        "first release; put past the gate by eve: the drill (the gate: no holdout)"
    )


def test_a_command_that_was_withdrawn_is_not_carried_out(world: World) -> None:
    world.asks("rollback")
    (command,) = world.db.state.commands.values()
    with world.db.transaction() as tx:
        assert tx.commands.done(command.command_id, "withdrawn: nobody was there")
    world.tick()
    assert world.newest.state == "canary"
    (kept,) = world.view().refused
    assert kept.outcome == "withdrawn: nobody was there"


def test_no_share_rises_on_a_number_beyond_its_margin() -> None:
    # p95 is 3.4 times the champion's, though on so few answers that it could be chance.
    slow = arm(25, ms=20.0)
    slow = msgspec.structs.replace(
        slow, latency_buckets=(*((bucket, 23) for bucket, _ in slow.latency_buckets), (214, 2))
    )
    rollout = Rollout(
        rollout_id="r", task=TASK, champion="a", challenger="b", state="canary", step=0,
        share=0.005, steps=(0.005, 0.5), started_at=START, step_started_at=START,
    )  # fmt: skip
    facts = Facts(champion=arm(500), challenger=slow, pairs=tuple(pairs([0] * 20)))
    found = assess(rollout, facts, SETTINGS)
    (latency,) = (c for c in found.of("promotion") if c.name == "latency")
    (worry,) = (c for c in found.of("step") if c.name == "no worry")
    assert latency.value is not None
    assert latency.value > SETTINGS.latency_margin
    assert worry.outcome == "waiting"
    assert f"p95 {latency.value:.2f} × against 3 ×" in worry.words


def test_a_command_does_not_wait_for_evidence_that_was_just_collected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest: Latest = {}

    def ticks() -> None:
        tick(world.db.transaction, world.db.reading, TASK, SETTINGS, Fleet(), world.now, latest)

    world.db.state.pairs = pairs([0] * 9)
    ticks()
    world.asks("rollback")
    monkeypatch.setattr(flywheel.rollout.control, "gather", None)
    ticks()
    found = world.view()
    assert found.rollout.state == "rolled_back"
    assert found.paired is not None
    assert found.paired.n == 9


def test_what_was_collected_before_decides_nothing(world: World) -> None:
    latest: Latest = {}
    world.db.state.pairs = pairs([-1] * 30)
    running = world.newest
    stale = Command(
        command_id=new_id(), task=TASK, kind="promote", by="ana", why="x", at=world.now,
        rollout_id=running.rollout_id, revision=0,
    )  # fmt: skip
    with world.db.transaction() as tx:
        tx.commands.add(stale)
    with world.db.reading() as tx:
        latest[TASK] = LastLook(
            running.rollout_id, gather(tx.evidence, running), JudgedSamples(running.rollout_id)
        )
    world.db.state.pairs = []
    tick(world.db.transaction, world.db.reading, TASK, SETTINGS, Fleet(), world.now, latest)
    assert world.newest.state == "canary"
