"""What people see of a task's rollouts: typed, JSON-able, the same checks the controller uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

import msgspec

from flywheel.contracts.release import Release
from flywheel.contracts.split import RolloutState, TrafficSplit
from flywheel.rollout.analysis import latency
from flywheel.rollout.analysis.adapter import adapter_note
from flywheel.rollout.analysis.assess import assess
from flywheel.rollout.analysis.evidence import Assessment, Check, Facts
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import gather
from flywheel.rollout.decide import Decision, decide
from flywheel.rollout.plan import look_sizes, split_of
from flywheel.rollout.ports import ArmSummary, Command, Rollout, RolloutTransaction, Transition


class ReleaseReader(Protocol):
    """The registry, as far as it says how a release is served."""

    def get(self, release: str) -> Release | None:
        """One release, or None."""
        ...


class ViewTransaction(RolloutTransaction, Protocol):
    """What is read for a view: the controller's stores, and the releases."""

    @property
    def releases(self) -> ReleaseReader:
        """The registry."""
        ...


Viewing = Callable[[], AbstractContextManager[ViewTransaction]]


class ArmView(msgspec.Struct, frozen=True, kw_only=True):
    """One arm's live traffic; latencies in ms, accuracy on its labelled live answers."""

    release: str
    requests: int
    errors: int
    error_rate: float | None
    shadow_requests: int
    labelled: int
    accuracy: float | None
    p50_ms: float | None
    p95_ms: float | None


class PairedView(msgspec.Struct, frozen=True, kw_only=True):
    """The paired comparison: what it counts, the difference and its confidence sequence."""

    n: int
    both_right: int
    only_champion_right: int
    only_challenger_right: int
    both_wrong: int
    difference: float | None
    low: float | None
    high: float | None
    margin: float
    looks: tuple[int, ...]
    looks_used: int
    next_look: int | None


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout: itself, how it came here, its evidence, and (if it runs) what comes next."""

    rollout: Rollout
    transitions: tuple[Transition, ...]
    champion: ArmView
    challenger: ArmView
    paired: PairedView
    checks: tuple[Check, ...]
    next: str


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout of the past in a line."""

    rollout_id: str
    champion: str
    challenger: str
    state: RolloutState
    started_at: datetime
    ended_at: datetime | None
    reason: str


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a task's rollouts at one moment."""

    task: str
    champion: str | None
    split: TrafficSplit | None
    active: RolloutView | None
    history: tuple[HistoryItem, ...]
    waiting: tuple[str, ...]
    pending: tuple[Command, ...]
    next: str


def task_view(tx: ViewTransaction, task: str, settings: RolloutSettings, now: datetime) -> TaskView:
    """Read the whole state of a task."""
    active = tx.rollouts.active(task)
    champion = tx.rollouts.champion(task)
    waiting = tuple(release for release in tx.challengers.waiting(task) if release != champion)
    history = tx.rollouts.history(task)
    split = None if champion is None else TrafficSplit(task=task, champion=champion)
    view = rollout_view(tx, active, settings, now) if active else None
    if waiting:
        idle = f"a rollout of {waiting[-1]} begins"
    elif champion is None:
        idle = "the first registered release becomes the champion"
    else:
        idle = "the next release past the gate is rolled out"
    return TaskView(
        task=task,
        champion=champion,
        split=split_of(active, settings) if active else split,
        active=view,
        history=tuple(_item(rollout) for rollout in history),
        waiting=waiting,
        pending=tuple(tx.commands.pending(task)),
        next=view.next if view else idle,
    )


def rollout_view(
    tx: ViewTransaction, rollout: Rollout, settings: RolloutSettings, now: datetime
) -> RolloutView:
    """One rollout with its evidence as it is now (late labels of a past one included)."""
    facts = gather(tx.evidence, rollout)
    if rollout.ended_at is None:
        decision = decide(rollout, facts, settings, now)
        seen, what_next = decision.assessment, _next(rollout, decision)
    else:
        seen, what_next = assess(rollout, facts, settings), f"ended: {rollout.reason}"
    return RolloutView(
        rollout=rollout,
        transitions=tuple(tx.rollouts.transitions(rollout.rollout_id)),
        champion=_arm(rollout.champion, facts.champion),
        challenger=_arm(rollout.challenger, facts.challenger),
        paired=_paired(facts, seen, settings),
        checks=_noted(tx, rollout, seen.checks),
        next=what_next,
    )


def _noted(tx: ViewTransaction, rollout: Rollout, checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """The checks, with what people must know to read those of latency."""
    note = adapter_note(tx.releases.get(rollout.champion), tx.releases.get(rollout.challenger))
    if not note:
        return checks
    return tuple(
        msgspec.structs.replace(check, words=f"{check.words}; {note}")
        if check.name == "latency"
        else check
        for check in checks
    )


def _next(rollout: Rollout, decision: Decision) -> str:
    if decision.changes(rollout):
        return f"becomes {decision.state.replace('_', ' ')} at once: {decision.reason}"
    return decision.next


def _arm(release: str, arm: ArmSummary) -> ArmView:
    latencies = latency.of_arm(arm)
    return ArmView(
        release=release,
        requests=arm.requests,
        errors=arm.errors,
        error_rate=arm.errors / arm.requests if arm.requests else None,
        shadow_requests=arm.shadow_requests,
        labelled=arm.labelled,
        accuracy=arm.correct / arm.labelled if arm.labelled else None,
        p50_ms=latencies.quantile(0.5),
        p95_ms=latencies.quantile(0.95),
    )


def _paired(facts: Facts, seen: Assessment, settings: RolloutSettings) -> PairedView:
    def count(champion: bool, challenger: bool) -> int:
        wanted = (champion, challenger)
        return sum((p.champion_correct, p.challenger_correct) == wanted for p in facts.pairs)

    check = next(check for check in seen.of("harm") if check.name == "accuracy")
    return PairedView(
        n=seen.pairs,
        both_right=count(True, True),
        only_champion_right=count(True, False),
        only_challenger_right=count(False, True),
        both_wrong=count(False, False),
        difference=check.value,
        low=check.low,
        high=check.high,
        margin=-settings.accuracy_margin,
        looks=look_sizes(settings),
        looks_used=seen.looks_used,
        next_look=seen.next_look,
    )


def _item(rollout: Rollout) -> HistoryItem:
    return HistoryItem(
        rollout_id=rollout.rollout_id,
        champion=rollout.champion,
        challenger=rollout.challenger,
        state=rollout.state,
        started_at=rollout.started_at,
        ended_at=rollout.ended_at,
        reason=rollout.reason,
    )
