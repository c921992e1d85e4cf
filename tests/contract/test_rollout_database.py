"""The controller on the real database: evidence from events, transitions and events committed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from rollout_evidence import pairs_of

from flywheel.contracts.codec import decode
from flywheel.contracts.events import (
    Arm,
    Event,
    LabelSettled,
    RolloutChanged,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.ids import new_id, unit_fraction
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick
from flywheel.rollout.decide import Readiness
from flywheel.rollout.view import task_view
from storage.database import Database, Transaction

TASK = "topics"
LABELS = ("a", "b", "c")
START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = RolloutSettings(
    steps=(0.2, 0.5), min_requests=20, min_labels=40, latency_margin=3.0, accuracy_margin=0.08
)


class Crash(Exception):
    """The process dies here."""


class AllReady:
    def ready(self, release: str) -> Readiness:
        return Readiness(ready=2, total=2)


class World:
    """Traffic by the announced split, its shadows and audits, and the controller."""

    def __init__(self, database: Database, right: dict[str, float]) -> None:
        self.database = database
        self.right = right
        self.now = START
        self.chance = random.Random(7)
        self.made = 0
        self.crash_at: int | None = None
        self.transactions = 0

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.database.transaction("controller") as tx:
            yield tx
            self.may_crash()

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        with self.database.transaction(read_only=True) as tx:
            yield tx
            self.may_crash()

    def may_crash(self) -> None:
        self.transactions += 1
        if self.crash_at == self.transactions:
            raise Crash

    def register(self, release: str) -> None:
        with self.transaction() as tx:
            tx.challengers.enqueue(TASK, release, self.now, True)

    def tick(self) -> RolloutChanged | None:
        self.now += timedelta(seconds=5)
        return tick(self.transaction, self.reading, TASK, SETTINGS, AllReady(), self.now)

    def sent(self) -> list[Event]:
        rows = self.database.outbox_rows("controller").unsent(1000)
        return [decode(record.value, dict(record.headers)) for _, record in rows]

    def traffic(self, requests: int) -> None:
        split = self.sent()[-1]
        assert isinstance(split, RolloutChanged)
        live, shadows, labels = [], [], []
        for _ in range(requests):
            self.made += 1
            self.now += timedelta(milliseconds=100)
            sample, truth = f"s{self.made}", self.chance.choice(LABELS)
            challenged = unit_fraction(split.rollout_id, sample) < split.split.challenger_share
            for arm, release in (
                ("champion", split.split.champion),
                ("challenger", split.split.challenger),
            ):
                assert release is not None
                output = truth if self.chance.random() < self.right[release] else "x"
                if (arm == "challenger") == challenged:
                    live.append(self.served(split, sample, arm, release, output))
                else:
                    shadows.append(self.shadow(split, sample, arm, release, output))
            if self.chance.random() < 0.5:
                labels.append(self.settled(sample, truth))
        with self.database.transaction("worker") as tx:
            tx.evidence_intake.record([*live, *shadows, *labels])

    def served(
        self, split: RolloutChanged, sample: str, arm: Arm, release: str, output: str
    ) -> TrafficRecorded:
        return TrafficRecorded(
            event_id=new_id(),
            occurred_at=self.now,
            task=TASK,
            sample_id=sample,
            content="?",
            unit=sample,
            release=release,
            arm=arm,
            rollout_id=split.rollout_id,
            output=output,
            confidence=0.9,
            latency_ms=20 + self.chance.random(),
        )

    def shadow(
        self, split: RolloutChanged, sample: str, arm: Arm, release: str, output: str
    ) -> ShadowRecorded:
        return ShadowRecorded(
            event_id=new_id(),
            occurred_at=self.now,
            task=TASK,
            sample_id=sample,
            release=release,
            arm=arm,
            rollout_id=split.rollout_id,
            output=output,
            confidence=0.9,
        )

    def settled(self, sample: str, truth: str) -> LabelSettled:
        return LabelSettled(
            event_id=new_id(),
            occurred_at=self.now,
            task=TASK,
            sample_id=sample,
            value=truth,
            annotators=("e",),
            agreement=1.0,
            inclusion_probability=0.5,
            audit=True,
        )

    def until_ended(self, rounds: int = 60) -> RolloutChanged:
        for _ in range(rounds):
            self.traffic(20)
            for _ in range(2):
                event = self.tick()
                if event is not None and event.state in ("promoted", "rolled_back"):
                    return event
        raise AssertionError(f"not ended: {self.view()}")

    def view(self) -> object:
        with self.transaction() as tx:
            return task_view(tx, TASK, SETTINGS, self.now)


def begun(database: Database, challenger: float) -> World:
    world = World(database, {"r1": 0.8, "r2": challenger})
    world.register("r1")
    assert world.tick() is not None
    world.register("r2")
    for expected in ("warming", "canary"):
        event = world.tick()
        assert event is not None
        assert event.state == expected
    return world


def test_a_better_challenger_is_promoted_on_evidence_from_events(database: Database) -> None:
    world = begun(database, 0.92)
    event = world.until_ended()
    assert event.state == "promoted", event.reason
    sent = [e for e in world.sent() if isinstance(e, RolloutChanged)]
    assert [e.state for e in sent] == ["serving", "warming", "canary", "canary", "promoted"]
    assert [e.split.challenger_share for e in sent] == [0, 0, 0.2, 0.5, 0]
    assert sent[-1].split.champion == "r2"
    with world.transaction() as tx:
        assert tx.rollouts.champion(TASK) == "r2"
        assert len(tx.rollouts.transitions(event.rollout_id)) == 4


def test_a_broken_challenger_is_rolled_back_on_evidence_from_events(database: Database) -> None:
    world = begun(database, 0.15)
    event = world.until_ended(rounds=8)
    assert event.state == "rolled_back"
    assert "accuracy is proven worse" in event.reason
    assert event.split.champion == "r1"


def test_late_labels_count_and_undone_ones_do_not(database: Database) -> None:
    world = begun(database, 0.8)
    world.traffic(40)
    with world.transaction() as tx:
        rollout = tx.rollouts.active(TASK)
        assert rollout is not None
        before = pairs_of(tx.evidence, rollout.rollout_id)
        known = {pair.sample_id for pair in before}
    world.now += timedelta(hours=3)
    late = next(f"s{i}" for i in range(1, 41) if f"s{i}" not in known)
    undone = LabelSettled(
        event_id=new_id(),
        occurred_at=world.now,
        task=TASK,
        sample_id=before[0].sample_id,
        value=None,
        annotators=("e",),
        agreement=1.0,
        inclusion_probability=0.5,
        audit=True,
    )
    with world.database.transaction("worker") as tx:
        tx.evidence_intake.record([world.settled(late, "a"), undone])
    with world.transaction() as tx:
        after = [pair.sample_id for pair in pairs_of(tx.evidence, rollout.rollout_id)]
    assert after == [pair.sample_id for pair in before[1:]] + [late]


@pytest.mark.parametrize("crash_at", [1, 2, 3, 4])
def test_a_tick_killed_before_any_commit_leaves_nothing_half_done(
    database: Database, crash_at: int
) -> None:
    world = World(database, {"r1": 0.8, "r2": 0.8})
    world.register("r1")
    world.tick()
    world.register("r2")
    world.transactions, world.crash_at = 0, crash_at
    states = []
    for _ in range(4):
        try:
            event = world.tick()
        except Crash:
            states.append("crash")
        else:
            states.append(event.state if event else "")
    assert states.count("crash") == 1
    assert [state for state in states if state not in ("", "crash")] == ["warming", "canary"]
    assert [e.state for e in world.sent() if isinstance(e, RolloutChanged)] == [
        "serving",
        "warming",
        "canary",
    ]
