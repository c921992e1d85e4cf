"""What people may ask of a rollout, and carrying it out."""

from __future__ import annotations

from datetime import datetime

import msgspec

from flywheel.contracts.events import RolloutChanged
from flywheel.errors import Conflict
from flywheel.rollout import transitions
from flywheel.rollout.analysis.assess import assess
from flywheel.rollout.analysis.evidence import Facts
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.decide import Servers, nowhere
from flywheel.rollout.findings import findings
from flywheel.rollout.plan import percent
from flywheel.rollout.ports import REFUSED, Command, Rollout, RolloutTransaction


def ask(tx: RolloutTransaction, command: Command) -> str:
    """Record a command for the controller. One that can't be carried out now is refused at once,
    which is recorded too: returns why; empty when the controller has it."""
    tx.commands.add(command)
    refused = _refusal(tx, command, tx.rollouts.active(command.task))
    if refused:
        tx.commands.done(command.command_id, f"{REFUSED}{refused}")
    return refused


def _refusal(
    tx: RolloutTransaction,
    command: Command,
    active: Rollout | None,
    servers: Servers | None = None,
) -> str:
    """Why a command cannot be carried out on the running rollout; empty when it can. ``servers``
    None: they were not asked."""
    if not command.by.strip() or not command.why.strip():
        return "who asks for it, and why, must be given"
    if command.kind == "start":
        return _start_refusal(tx, command, active)
    if command.kind == "restore":
        return _restore_refusal(tx, command, active)
    if active is None or active.rollout_id != command.rollout_id:
        return _not_running(tx, command, active)
    if command.kind == "pause" and active.state == "paused":
        return "the rollout is paused already"
    if command.kind == "resume" and active.state != "paused":
        return f"the rollout is not paused but {described(active)}"
    if command.kind == "promote" and (active.state == "warming" or active.resume_to == "warming"):
        return (
            "the challenger has not been loaded yet; promoting it would leave requests unanswered"
        )
    if command.kind in ("promote", "resume") and command.revision is None:
        return f"it does not say at which revision of the rollout it was decided to {command.kind}"
    if command.kind in ("promote", "resume") and command.revision != active.revision:
        return (
            f"the rollout has changed since this was asked for: it is {described(active)} now "
            f"({active.reason}). Look again, then decide"
        )
    return _unanswered(command, active, servers) if servers is not None else ""


def _unanswered(command: Command, active: Rollout, servers: Servers) -> str:
    """Why the release that would get all traffic cannot answer it; empty where it can, or where
    the other one can't either."""
    if command.kind == "rollback" and servers.champion_gone:
        return (
            f"{nowhere(active.champion, servers)}. Promote {active.challenger}, or restore a "
            "former champion (`flywheel releases restore RELEASE --by NAME --why TEXT`); once its "
            f"files are back {active.champion} is loaded by itself"
        )
    if command.kind == "promote" and servers.challenger_gone:
        readiness = servers.challenger
        return (
            f"{active.challenger} answers on none of {readiness.total} model servers"
            + (f" ({readiness.reason})" if readiness.reason else "")
            + ": promoted, no request would be answered"
        )
    return ""


def _not_running(tx: RolloutTransaction, command: Command, active: Rollout | None) -> str:
    """Why there is nothing to do for the rollout that a command names."""
    named = tx.rollouts.find(command.rollout_id) if command.rollout_id else None
    if named is not None and named.task == command.task and named.ended_at is not None:
        words = f"the rollout of {named.challenger} has ended: {named.reason}"
    elif command.rollout_id:
        words = f"{command.task} has no rollout {command.rollout_id}"
    elif active is None:
        return f"no rollout of {command.task} is running, so there is nothing to {command.kind}"
    else:
        words = f"it does not name the rollout to {command.kind} (its rollout_id)"
    if active is None:
        return words
    return f"{words}; what runs is that of {active.challenger}, {described(active)}"


def described(rollout: Rollout) -> str:
    """The state of a rollout in a few words, with its share where it has one."""
    words = rollout.state.replace("_", " ")
    return f"{words} at {percent(rollout.share)}" if rollout.share else words


def _start_refusal(tx: RolloutTransaction, command: Command, active: Rollout | None) -> str:
    release = command.release
    if not release:
        return "start needs the release to roll out"
    if active is not None:
        return f"a rollout of {active.challenger} is running: promote it or roll it back first"
    newest = next(iter(tx.rollouts.history(command.task, 1)), None)
    if newest is not None and (newest.rollout_id, newest.revision) != (
        command.rollout_id,
        command.revision,
    ):
        return (
            f"a rollout of {newest.challenger} has been since this was asked for, "
            f"{described(newest)} ({newest.reason}). Look again, then decide"
        )
    if release == tx.rollouts.champion(command.task):
        return f"{release} is the champion already"
    gate = tx.challengers.gate(command.task, release)
    if gate is None:
        return f"{release} is no registered release of {command.task}"
    if not gate and command.override is None:
        return f"{release} did not pass the gate: starting it needs an override"
    return tx.challengers.pruned(release)


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
    if active is not None and active.rollout_id != command.rollout_id:
        return (
            f"a rollout of {active.challenger} has begun since this was asked for, and would be "
            "rolled back with it. Look again, then decide"
        )
    return tx.challengers.pruned(release)


def carry_out(
    tx: RolloutTransaction,
    command: Command,
    settings: RolloutSettings,
    now: datetime,
    seen: Rollout | None = None,
    facts: Facts | None = None,
    servers: Servers | None = None,
) -> RolloutChanged | None:
    """Carry a command out, or refuse it; either way it is done. Returns the change, if any.

    ``facts`` are those of the rollout ``seen``, to be kept with the transition, ``servers`` how
    its arms stand there. Raises Conflict when the command was withdrawn meanwhile.
    """
    # Read once: another controller may end it between two statements.
    active = tx.rollouts.active(command.task)
    same = active is not None and seen is not None and active.rollout_id == seen.rollout_id
    refused = _refusal(tx, command, active, servers if same else None)
    if refused:
        tx.commands.done(command.command_id, f"{REFUSED}{refused}")
        return None
    evidence: dict[str, object] | None = None
    if same and seen is not None:
        known = facts or Facts()
        evidence = findings(seen, known, assess(seen, known, settings), settings).kept()
    if command.kind == "restore":
        event = _restore(tx, command, active, settings, now, evidence)
    elif active is None:
        event = _start(tx, command, settings, now)
    else:
        after = _after(active, command, now)
        event = transitions.record(tx, after, settings, now, command.by, evidence)
    if not tx.commands.done(command.command_id, event.state):
        raise Conflict("the command was withdrawn")
    return event


def _start(
    tx: RolloutTransaction, command: Command, settings: RolloutSettings, now: datetime
) -> RolloutChanged:
    assert command.release is not None  # noqa: S101 - _refusal() has seen to it
    reason = f"started: {command.why}"
    past = transitions.past_the_gate(tx, command.release)
    if past:
        reason += f"; {past}"
    elif command.override is not None and not tx.challengers.gate(command.task, command.release):
        reason = f"started past the gate: {command.override.why}"
    return transitions.begin(tx, command.task, command.release, settings, now, command.by, reason)


def _restore(
    tx: RolloutTransaction,
    command: Command,
    active: Rollout | None,
    settings: RolloutSettings,
    now: datetime,
    evidence: dict[str, object] | None,
) -> RolloutChanged:
    """End what runs, and have a former champion loaded; it takes over once it answers."""
    assert command.release is not None  # noqa: S101 - _refusal() has seen to it
    if active is not None:
        reason = f"rolled back: {command.release} is restored: {command.why}"
        ended = transitions.moved(active, "rolled_back", reason, now)
        transitions.record(tx, ended, settings, now, command.by, evidence)
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
