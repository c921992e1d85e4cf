"""What people see of a task's rollouts: typed, JSON-able, the same checks the controller uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime

import msgspec

from flywheel.contracts.release import Override
from flywheel.contracts.split import RolloutState, TrafficSplit
from flywheel.rollout.analysis.adapter import adapter_note
from flywheel.rollout.analysis.evidence import Check
from flywheel.rollout.analysis.units import UnitsView, units_view
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import gather
from flywheel.rollout.decide import Decision, decide
from flywheel.rollout.findings import ArmView, Findings, PairedView, decided_on, findings
from flywheel.rollout.judged import RunningJudged
from flywheel.rollout.plan import split_of
from flywheel.rollout.ports import Command, CommandRecord, Rollout, RolloutTransaction, Transition

SHOWN = 50  # rollouts of the past at a time

Viewing = Callable[[], AbstractContextManager[RolloutTransaction]]


class GateView(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate said of a challenger, and who put it past a failed one and why."""

    passed: bool
    reason: str
    override: Override | None = None


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout: itself, how it came here, its evidence, and (if it runs) what comes next.

    The evidence of one that has ended is what was kept when ``decided_on`` was decided: labels
    that came later don't change what a decision was made from. Its last decision may have kept
    none, and one of long ago none at all: then arms and pairs are None. ``refused`` are the
    commands on it that were not carried out. ``gate`` is None where the registry has no such
    release. ``units`` are those of the present step, None of one that has ended.
    """

    rollout: Rollout
    transitions: tuple[Transition, ...]
    gate: GateView | None
    refused: tuple[CommandRecord, ...]
    champion: ArmView | None
    challenger: ArmView | None
    paired: PairedView | None
    units: UnitsView | None
    checks: tuple[Check, ...]
    decided_on: Transition | None
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
    """Everything about a task's rollouts at one moment. ``history`` is a page of ``SHOWN``
    rollouts, without the newest ``skip``; there are ``older`` ones."""

    task: str
    champion: str | None
    split: TrafficSplit | None
    active: RolloutView | None
    history: tuple[HistoryItem, ...]
    skip: int
    older: bool
    waiting: tuple[str, ...]
    pending: tuple[Command, ...]
    next: str
    asked: tuple[CommandRecord, ...]


def task_view(
    tx: RolloutTransaction,
    task: str,
    settings: RolloutSettings,
    now: datetime,
    skip: int = 0,
    judged: RunningJudged | None = None,
) -> TaskView:
    """Read the whole state of a task; of its history what comes after the newest ``skip``.
    ``judged`` is the caller's, kept from view to view."""
    active = tx.rollouts.active(task)
    champion = tx.rollouts.champion(task)
    waiting = tuple(release for release in tx.challengers.waiting(task) if release != champion)
    history = tx.rollouts.history(task, SHOWN + 1, skip)
    split = None if champion is None else TrafficSplit(task=task, champion=champion)
    view = rollout_view(tx, active, settings, now, judged) if active else None
    if waiting:
        idle = f"a rollout of {waiting[-1]} begins"
    elif champion is None:
        idle = "the first registered release becomes the champion"
    else:
        idle = "the next release that passes the gate is rolled out"
    return TaskView(
        task=task,
        champion=champion,
        split=split_of(active, settings) if active else split,
        active=view,
        history=tuple(_item(rollout) for rollout in history[:SHOWN]),
        skip=skip,
        older=len(history) > SHOWN,
        waiting=waiting,
        pending=tuple(tx.commands.pending(task)),
        next=view.next if view else idle,
        asked=tuple(tx.commands.history(task, 20)),
    )


def rollout_view(
    tx: RolloutTransaction,
    rollout: Rollout,
    settings: RolloutSettings,
    now: datetime,
    judged: RunningJudged | None = None,
) -> RolloutView:
    """One rollout with its evidence: as it is now, or as it was when it was decided."""
    transitions = tuple(tx.rollouts.transitions(rollout.rollout_id))
    shown: Findings | None = None
    change: Transition | None = None
    units: UnitsView | None = None
    if rollout.ended_at is None:
        with (judged or RunningJudged()).of(rollout) as samples:
            facts = gather(tx.evidence, rollout, samples)
        decision = decide(rollout, facts, settings, now)
        shown = findings(rollout, facts, decision.assessment, settings)
        units = units_view(rollout, facts.step, settings)
        what_next = _next(rollout, decision)
    else:
        what_next = f"ended: {rollout.reason}"
        shown, change = decided_on(rollout, transitions) or (None, None)
    return RolloutView(
        rollout=rollout,
        transitions=transitions,
        gate=_gate(tx, rollout),
        refused=_refused(tx, rollout),
        champion=shown.champion if shown else None,
        challenger=shown.challenger if shown else None,
        paired=shown.paired if shown else None,
        units=units,
        checks=_noted(tx, rollout, shown.checks) if shown else (),
        decided_on=change,
        next=what_next,
    )


def _gate(tx: RolloutTransaction, rollout: Rollout) -> GateView | None:
    release = tx.releases.get(rollout.challenger)
    if release is None:
        return None
    return GateView(
        passed=release.gate_passed, reason=release.gate_reason, override=release.override
    )


def _refused(tx: RolloutTransaction, rollout: Rollout) -> tuple[CommandRecord, ...]:
    """Oldest first."""
    return tuple(
        asked
        for asked in tx.commands.of_rollout(rollout.rollout_id)
        if asked.outcome is not None and not asked.accepted
    )


def _noted(
    tx: RolloutTransaction, rollout: Rollout, checks: tuple[Check, ...]
) -> tuple[Check, ...]:
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
