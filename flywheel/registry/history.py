"""What became of a release, and who or what decided it: derived, nothing is written for it.

The trainer records that a release was registered and the controller every transition of a rollout;
both together are the history, so the two can never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from flywheel.contracts.release import Release, ReleaseStatus
from flywheel.registry.ports import RegistryReading, RolloutLine, TransitionLine

# No task has had so many rollouts.
ALL = 1_000_000

RolloutHistory = tuple[RolloutLine, Sequence[TransitionLine]]


class StatusChange(msgspec.Struct, frozen=True, kw_only=True):
    """A release's status from a moment on, who or what decided it, and why.

    ``share`` is its share of live traffic (0–1); ``rollout_id`` None for the registration.
    """

    at: datetime
    status: ReleaseStatus
    by: str
    reason: str
    share: float = 0.0
    rollout_id: str | None = None


def status_history(release: Release, rollouts: Iterable[RolloutHistory]) -> list[StatusChange]:
    """The history of one release, oldest first; ``rollouts`` are those of its task, oldest first.

    A rollout that only waits for the release to be loaded changes no status; that it could not be
    loaded does, with the reason the model servers gave.
    """
    changes = [_registered(release)]
    serves = False
    for rollout, transitions in rollouts:
        for transition in transitions:
            now_serves = _champion_after(rollout, transition) == release.release
            if rollout.challenger == release.release:
                changes += _tried(rollout, transition)
            elif serves and not now_serves:
                changes.append(_replaced(rollout, transition))
            serves = now_serves
    return changes


def read_history(tx: RegistryReading, release: Release) -> list[StatusChange]:
    """``status_history`` of a registered release."""
    return status_history(release, rollout_histories(tx, release.task))


def current_status(
    release: str, champion: str | None, rollouts: Iterable[RolloutLine]
) -> ReleaseStatus:
    """The latest of ``status_history``, by the rollouts of the task alone, newest first."""
    if release == champion:
        return "champion"
    for rollout in rollouts:
        # One that only waits for its release to be loaded changes nothing, unless it was held.
        waits = rollout.state == "warming" and rollout.resumed_at is None
        if rollout.challenger == release and not waits:
            if rollout.ended_at is None:
                return "canary"
            return "rolled_back" if rollout.state == "rolled_back" else "retired"
        if rollout.champion == release:
            return "retired"
    return "registered"


def rollout_histories(tx: RegistryReading, task: str) -> list[RolloutHistory]:
    """Every rollout of a task with its transitions, oldest first."""
    rollouts = list(tx.rollouts.history(task, ALL))[::-1]
    return [(rollout, tx.rollouts.transitions(rollout.rollout_id)) for rollout in rollouts]


def _registered(release: Release) -> StatusChange:
    if release.override is None:
        by, reason = "gate", release.gate_reason
    else:
        by = release.override.by
        reason = f"put past the gate: {release.override.why}"
        reason += "" if release.gate_passed else f" (the gate: {release.gate_reason})"
    source = release.recipe.get("imported")
    if isinstance(source, dict):
        reason = f"imported from {source.get('source', 'elsewhere')}; {reason}"
    return StatusChange(at=release.created_at, status="registered", by=by, reason=reason)


def _champion_after(rollout: RolloutLine, transition: TransitionLine) -> str:
    served = transition.state in ("promoted", "serving")
    return rollout.challenger if served else rollout.champion


def _tried(rollout: RolloutLine, transition: TransitionLine) -> list[StatusChange]:
    status: ReleaseStatus
    if transition.state in ("promoted", "serving"):
        status = "champion"
    elif transition.state == "rolled_back":
        status = "rolled_back"
    elif transition.state in ("shadow", "canary", "paused"):
        status = "canary"
    else:
        return []
    return [_change(rollout, transition, status, transition.reason)]


def _replaced(rollout: RolloutLine, transition: TransitionLine) -> StatusChange:
    reason = f"{rollout.challenger} took over: {transition.reason}"
    return _change(rollout, transition, "retired", reason)


def _change(
    rollout: RolloutLine, transition: TransitionLine, status: ReleaseStatus, reason: str
) -> StatusChange:
    return StatusChange(
        at=transition.at,
        status=status,
        by=transition.decided_by,
        reason=reason,
        share=1.0 if status == "champion" else transition.share,
        rollout_id=rollout.rollout_id,
    )
