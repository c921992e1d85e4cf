"""Writing a transition: rollout, transition, champion and event, in the caller's transaction."""

from __future__ import annotations

from datetime import datetime

import msgspec

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id
from flywheel.rollout.analysis.evidence import Facts
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.decide import CONTROLLER, Decision, Servers
from flywheel.rollout.findings import findings
from flywheel.rollout.plan import split_of
from flywheel.rollout.ports import Rollout, RolloutTransaction, Transition

ENDED = ("promoted", "rolled_back", "serving")


def begin(
    tx: RolloutTransaction,
    task: str,
    release: str,
    settings: RolloutSettings,
    now: datetime,
    by: str,
    reason: str,
    *,
    steps: tuple[float, ...] | None = None,
) -> RolloutChanged:
    """Start a rollout of ``release``; where there is no champion it becomes champion at once.

    ``steps`` replaces those of the settings; with none it takes over as soon as it answers.
    """
    champion = tx.rollouts.champion(task)
    first = champion is None
    rollout = Rollout(
        rollout_id=new_id(),
        task=task,
        champion=champion or release,
        challenger=release,
        state="serving" if first else "warming",
        step=-1,
        share=0.0,
        started_at=now,
        step_started_at=now,
        ended_at=now if first else None,
        reason=reason,
        steps=settings.steps if steps is None else steps,
    )
    tx.challengers.taken(release)
    if first:
        tx.rollouts.set_champion(task, release)
    return record(tx, rollout, settings, now, by)


def past_the_gate(tx: RolloutTransaction, release: str) -> str:
    """Who put a release past its gate when it was registered, and why; empty where it passed, or
    where the registry does not know it."""
    registered = tx.releases.get(release)
    if registered is None or registered.gate_passed or registered.override is None:
        return ""
    return (
        f"put past the gate by {registered.override.by}: {registered.override.why} "
        f"(the gate: {registered.gate_reason})"
    )


def apply(
    tx: RolloutTransaction,
    rollout: Rollout,
    decision: Decision,
    facts: Facts,
    settings: RolloutSettings,
    now: datetime,
) -> RolloutChanged:
    """Carry out the controller's own decision, with the evidence it was made from.

    That a restored release takes over was decided by the person who asked for it.
    """
    after = moved(with_looks(rollout, decision), decision.state, decision.reason, now)
    after = msgspec.structs.replace(after, share=decision.share, step=decision.step)
    by = CONTROLLER
    if after.state == "promoted" and not after.steps:
        by = tx.rollouts.transitions(after.rollout_id)[0].decided_by
    decided = findings(rollout, facts, decision.assessment, settings)
    return record(tx, after, settings, now, by, decided.kept())


def moved(rollout: Rollout, state: str, reason: str, now: datetime) -> Rollout:
    """The rollout in another state; a share is kept only by a rollout that goes on, and a step
    goes on through a pause."""
    ended = state in ENDED
    held = "paused" in (rollout.state, state)
    return msgspec.structs.replace(
        rollout,
        state=state,
        reason=reason,
        share=0.0 if ended else rollout.share,
        step_started_at=rollout.step_started_at if held else now,
        ended_at=now if ended else None,
        resume_to=rollout.state if state == "paused" else None,
    )


def record(
    tx: RolloutTransaction,
    rollout: Rollout,
    settings: RolloutSettings,
    now: datetime,
    by: str,
    evidence: dict[str, object] | None = None,
) -> RolloutChanged:
    """Store a rollout with its transition and the event that tells everyone."""
    if rollout.state == "promoted":
        tx.rollouts.set_champion(rollout.task, rollout.challenger)
    transition = Transition(
        rollout_id=rollout.rollout_id,
        at=now,
        state=rollout.state,
        share=rollout.share,
        decided_by=by,
        reason=rollout.reason,
        evidence=evidence or {},
    )
    tx.rollouts.save(rollout, transition)
    event = changed(tx, rollout, settings, now, by, rollout.reason)
    tx.outbox.add([event])
    return event


def changed(
    tx: RolloutTransaction,
    rollout: Rollout,
    settings: RolloutSettings,
    now: datetime,
    by: str,
    reason: str,
) -> RolloutChanged:
    """The event for a rollout as it is, carrying the whole split and where its releases are."""
    split = split_of(rollout, settings)
    named = [tx.releases.get(one) for one in (split.champion, split.challenger) if one is not None]
    return RolloutChanged(
        event_id=new_id(),
        occurred_at=now,
        task=rollout.task,
        rollout_id=rollout.rollout_id,
        state=rollout.state,
        split=split,
        decided_by=by,
        reason=reason,
        step=rollout.step,
        challenger=rollout.challenger,
        kept=tuple(one.kept for one in named if one is not None and one.kept is not None),
    )


def with_readiness(rollout: Rollout, servers: Servers, now: datetime) -> Rollout:
    """The rollout with the moment since which its challenger has been missing, if it is."""
    if not servers.challenger_missing:
        return msgspec.structs.replace(rollout, unready_since=None)
    if rollout.unready_since is not None:
        return rollout
    return msgspec.structs.replace(rollout, unready_since=now)


def with_looks(rollout: Rollout, decision: Decision) -> Rollout:
    """The rollout with the number of scheduled looks that have been taken."""
    return msgspec.structs.replace(rollout, looks_used=decision.assessment.looks_used)
