"""What people may ask of a rollout, and carrying it out."""

from __future__ import annotations

from datetime import datetime

import msgspec

from flywheel.contracts.events import RolloutChanged
from flywheel.rollout import transitions
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.ports import Command, Rollout, RolloutTransaction


def refusal(tx: RolloutTransaction, command: Command) -> str:
    """Why a command cannot be carried out now; empty when it can."""
    if not command.by.strip() or not command.why.strip():
        return "who asks for it, and why, must be given"
    active = tx.rollouts.active(command.task)
    if command.kind == "start":
        return _start_refusal(tx, command, active)
    if command.kind == "restore":
        return _restore_refusal(tx, command, active)
    if active is None:
        return f"no rollout of {command.task} is running, so there is nothing to {command.kind}"
    if command.kind == "pause" and active.state == "paused":
        return "the rollout is paused already"
    if command.kind == "resume" and active.state != "paused":
        return f"the rollout is not paused but {active.state}"
    if command.kind == "promote" and (active.state == "warming" or active.resume_to == "warming"):
        return (
            "the challenger has not been loaded yet; promoting it would leave requests unanswered"
        )
    return ""


def _start_refusal(tx: RolloutTransaction, command: Command, active: Rollout | None) -> str:
    release = command.release
    if not release:
        return "start needs the release to roll out"
    if active is not None:
        return f"a rollout of {active.challenger} is running: promote it or roll it back first"
    if release == tx.rollouts.champion(command.task):
        return f"{release} is the champion already"
    gate = tx.challengers.gate(command.task, release)
    if gate is None:
        return f"{release} is no registered release of {command.task}"
    if not gate and command.override is None:
        return f"{release} did not pass the gate: starting it needs an override"
    return ""


def _restore_refusal(tx: RolloutTransaction, command: Command, active: Rollout | None) -> str:
    release = command.release
    if not release:
        return "restore needs the release to roll back to"
    if not tx.rollouts.was_champion(command.task, release):
        return f"{release} was never the champion of {command.task}: start a rollout of it instead"
    if release == tx.rollouts.champion(command.task):
        if active is None:
            return f"{release} is the champion already"
        return f"{release} is the champion: roll back the rollout of {active.challenger} instead"
    return ""


def carry_out(
    tx: RolloutTransaction, command: Command, settings: RolloutSettings, now: datetime
) -> RolloutChanged | None:
    """Carry a command out, or refuse it; either way it is done. Returns the change, if any."""
    refused = refusal(tx, command)
    if refused:
        tx.commands.done(command.command_id, f"refused: {refused}")
        return None
    active = tx.rollouts.active(command.task)
    if command.kind == "restore":
        event = _restore(tx, command, active, settings, now)
    elif active is None:
        assert command.release is not None  # noqa: S101 - refusal() has seen to it
        reason = f"started: {command.why}"
        if command.override is not None:
            reason = f"started past the gate: {command.override.why}"
        event = transitions.begin(
            tx, command.task, command.release, settings, now, command.by, reason
        )
    else:
        after = _after(active, command, now)
        event = transitions.record(tx, after, settings, now, command.by)
    tx.commands.done(command.command_id, event.state)
    return event


def _restore(
    tx: RolloutTransaction,
    command: Command,
    active: Rollout | None,
    settings: RolloutSettings,
    now: datetime,
) -> RolloutChanged:
    """End what runs, and have a former champion loaded; it takes over once it answers."""
    assert command.release is not None  # noqa: S101 - refusal() has seen to it
    if active is not None:
        reason = f"rolled back: {command.release} is restored: {command.why}"
        ended = transitions.moved(active, "rolled_back", reason, now)
        transitions.record(tx, ended, settings, now, command.by)
    reason = f"restore of a former champion: {command.why}"
    return transitions.begin(
        tx, command.task, command.release, settings, now, command.by, reason, steps=()
    )


def _after(active: Rollout, command: Command, now: datetime) -> Rollout:
    if command.kind == "pause":
        return transitions.moved(active, "paused", f"paused: {command.why}", now)
    if command.kind == "promote":
        return transitions.moved(active, "promoted", f"promoted: {command.why}", now)
    if command.kind == "rollback":
        return transitions.moved(active, "rolled_back", f"rolled back: {command.why}", now)
    after = transitions.moved(active, active.resume_to or "warming", f"resumed: {command.why}", now)
    return msgspec.structs.replace(after, resumed_at=now)
