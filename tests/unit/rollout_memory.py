"""The controller's ports in memory: transactions that commit whole or not at all."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import msgspec

from flywheel.contracts.events import Event, RolloutChanged
from flywheel.contracts.release import Release
from flywheel.errors import Conflict
from flywheel.rollout.decide import Readiness
from flywheel.rollout.ports import (
    ArmSummary,
    Assignment,
    Command,
    CommandRecord,
    Judged,
    Pair,
    Rollout,
    Transition,
)
from flywheel.statistics.buckets import latency_bucket

START = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(Exception):
    """The process dies here."""


class State:
    """What is stored."""

    def __init__(self) -> None:
        self.rollouts: dict[str, Rollout] = {}
        self.transitions: list[Transition] = []
        self.champions: dict[str, str] = {}
        self.served: set[tuple[str, str]] = set()
        self.commands: dict[str, Command] = {}
        self.outcomes: dict[str, str] = {}
        self.releases: dict[str, tuple[str, bool]] = {}
        self.registry: dict[str, Release] = {}
        self.taken: set[str] = set()
        self.pruned: dict[str, str] = {}
        self.sent: list[RolloutChanged] = []
        self.arms: tuple[ArmSummary, ArmSummary] = (ArmSummary(), ArmSummary())
        self.judged: dict[str, Judged] = {}
        self.assignment = Assignment()

    @property
    def pairs(self) -> list[Pair]:
        """Audited samples that both arms answered."""
        return [
            Pair(
                sample_id=row.sample_id,
                champion_correct=bool(row.champion),
                challenger_correct=bool(row.challenger),
                inclusion_probability=row.inclusion_probability,
                labelled_at=row.labelled_at,
            )
            for row in self.judged.values()
            if not row.gone
        ]

    @pairs.setter
    def pairs(self, pairs: Sequence[Pair]) -> None:
        """From now on these and no others."""
        seq = max((row.seq for row in self.judged.values()), default=0) + 1
        gone = {
            name: msgspec.structs.replace(row, gone=True, seq=seq)
            for name, row in self.judged.items()
        }
        self.judged = gone | {
            pair.sample_id: Judged(
                sample_id=pair.sample_id,
                seq=seq,
                gone=False,
                champion=pair.champion_correct,
                champion_live=None,
                challenger=pair.challenger_correct,
                challenger_live=None,
                inclusion_probability=pair.inclusion_probability,
                event_id=pair.sample_id,
                labelled_at=pair.labelled_at,
            )
            for pair in pairs
        }

    def copy(self) -> State:
        """Containers of its own; what they hold is immutable."""
        other = State()
        other.__dict__ = {name: copy.copy(value) for name, value in self.__dict__.items()}
        return other


class _Rollouts:
    def __init__(self, state: State) -> None:
        self._state = state

    def active(self, task: str) -> Rollout | None:
        found = [r for r in self._state.rollouts.values() if r.task == task and r.ended_at is None]
        assert len(found) <= 1
        return found[0] if found else None

    def running(self) -> list[Rollout]:
        return [r for r in self._state.rollouts.values() if r.ended_at is None]

    def champions(self) -> dict[str, str]:
        return dict(self._state.champions)

    def champion(self, task: str) -> str | None:
        return self._state.champions.get(task)

    def was_champion(self, task: str, release: str) -> bool:
        return (task, release) in self._state.served

    def set_champion(self, task: str, release: str) -> None:
        self._state.champions[task] = release
        self._state.served.add((task, release))

    def save(self, rollout: Rollout, transition: Transition | None) -> None:
        stored = self._state.rollouts.get(rollout.rollout_id)
        if stored is not None and stored.revision != rollout.revision:
            raise Conflict("changed meanwhile")
        if transition is not None:
            self._state.transitions.append(transition)
            rollout = msgspec.structs.replace(rollout, revision=rollout.revision + 1)
        self._state.rollouts[rollout.rollout_id] = rollout

    def find(self, rollout_id: str) -> Rollout | None:
        return self._state.rollouts.get(rollout_id)

    def history(self, task: str, limit: int = 50, skip: int = 0) -> list[Rollout]:
        found = [r for r in self._state.rollouts.values() if r.task == task]
        return found[::-1][skip : skip + limit]

    def transitions(self, rollout_id: str) -> list[Transition]:
        return [t for t in self._state.transitions if t.rollout_id == rollout_id]


class _Commands:
    def __init__(self, state: State) -> None:
        self._state = state

    def add(self, command: Command) -> None:
        self._state.commands.setdefault(command.command_id, command)

    def pending(self, task: str) -> list[Command]:
        return [
            c
            for c in self._state.commands.values()
            if c.task == task and c.command_id not in self._state.outcomes
        ]

    def done(self, command_id: str, outcome: str) -> bool:
        new = command_id not in self._state.outcomes
        self._state.outcomes.setdefault(command_id, outcome)
        return new

    def asked(self, command_id: str) -> CommandRecord | None:
        found = self._state.commands.get(command_id)
        outcome = self._state.outcomes.get(command_id)
        return found and CommandRecord(
            command=found, outcome=outcome, at=found.at if outcome else None
        )

    def history(self, task: str, limit: int = 50) -> list[CommandRecord]:
        found = [self.asked(c.command_id) for c in self._state.commands.values() if c.task == task]
        return [asked for asked in found if asked][::-1][:limit]

    def of_rollout(self, rollout_id: str) -> list[CommandRecord]:
        found = [self.asked(c.command_id) for c in self._state.commands.values()]
        return [one for one in found if one and one.command.rollout_id == rollout_id]


class _Challengers:
    def __init__(self, state: State) -> None:
        self._state = state

    def enqueue(self, task: str, release: str, registered_at: datetime, gate_passed: bool) -> None:
        self._state.releases.setdefault(release, (task, gate_passed))

    def waiting(self, task: str) -> list[str]:
        return [
            release
            for release, (of, passed) in self._state.releases.items()
            if of == task and passed and release not in self._state.taken
        ]

    def gate(self, task: str, release: str) -> bool | None:
        of, passed = self._state.releases.get(release, ("", False))
        return passed if of == task else None

    def taken(self, release: str) -> bool:
        new = release not in self._state.taken
        self._state.taken.add(release)
        return new

    def pruned(self, release: str) -> str:
        return self._state.pruned.get(release, "")


class _Evidence:
    def __init__(self, state: State) -> None:
        self._state = state

    def arms(self, rollout_id: str) -> tuple[ArmSummary, ArmSummary]:
        return self._state.arms

    def judged(self, rollout_id: str, after: int = 0) -> list[Judged]:
        return [row for row in self._state.judged.values() if row.seq > after]

    def assignment(self, rollout_id: str, since: datetime) -> Assignment:
        return self._state.assignment


class _Releases:
    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, release: str) -> Release | None:
        return self._state.registry.get(release)


class _Outbox:
    def __init__(self, state: State) -> None:
        self._state = state

    def add(self, events: Sequence[Event]) -> None:
        for event in events:
            assert isinstance(event, RolloutChanged)
            self._state.sent.append(event)


class MemoryTransaction:
    """One open transaction."""

    def __init__(self, state: State) -> None:
        self.rollouts = _Rollouts(state)
        self.commands = _Commands(state)
        self.challengers = _Challengers(state)
        self.evidence = _Evidence(state)
        self.releases = _Releases(state)
        self.outbox = _Outbox(state)


class MemoryDatabase:
    """``crash_at`` n: the n-th transaction from now raises Crash instead of committing."""

    def __init__(self) -> None:
        self.state = State()
        self.crash_at: int | None = None

    @contextmanager
    def transaction(self) -> Iterator[MemoryTransaction]:
        work = self.state.copy()
        yield MemoryTransaction(work)
        self._may_crash()
        self.state = work

    @contextmanager
    def reading(self) -> Iterator[MemoryTransaction]:
        """Whatever is written in it is lost."""
        yield MemoryTransaction(self.state.copy())
        self._may_crash()

    def _may_crash(self) -> None:
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at < 0:
                self.crash_at = None
                raise Crash


def naming(db: MemoryDatabase, task: str) -> dict[str, object]:
    """What a command says of the rollout that is seen now."""
    with db.reading() as tx:
        newest = next(iter(tx.rollouts.history(task, 1)), None)
    if newest is None:
        return {"rollout_id": None}
    return {"rollout_id": newest.rollout_id, "revision": newest.revision}


class Fleet:
    """Model servers whose answers a test sets."""

    def __init__(self, total: int = 2) -> None:
        self.total = total
        self.missing: dict[str, int] = {}
        self.late: dict[str, int] = {}

    def ready(self, release: str) -> Readiness:
        missing, late = self.missing.get(release, 0), self.late.get(release, 0)
        reasons = ["has not loaded it"] * (missing > 0) + ["did not answer in time"] * (late > 0)
        return Readiness(
            ready=self.total - missing - late,
            total=self.total,
            reason="; ".join(reasons),
            late=late,
        )


def pairs(outcomes: Sequence[int], probability: float = 0.25) -> list[Pair]:
    """Audited pairs with these differences (0: both right)."""
    return [
        Pair(
            sample_id=f"s{i}",
            champion_correct=d <= 0,
            challenger_correct=d >= 0,
            inclusion_probability=probability,
            labelled_at=START + timedelta(seconds=i),
        )
        for i, d in enumerate(outcomes)
    ]


def of_ten(champion: int, challenger: int) -> Assignment:
    """Requests that each arm got, of five units each: too few to say that they are unequal."""
    return Assignment(
        champion_requests=champion,
        challenger_requests=challenger,
        champion_units=5,
        challenger_units=5,
        heaviest_requests=max(champion, challenger) // 5,
    )


def arm(requests: int, errors: int = 0, ms: float = 20.0, shadow: int = 0) -> ArmSummary:
    """An arm whose answers all took about ``ms``."""
    good = requests - errors
    return ArmSummary(
        requests=requests,
        errors=errors,
        latency_buckets=((latency_bucket(ms), good),) if good else (),
        shadow_requests=shadow,
    )
