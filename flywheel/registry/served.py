"""What served a task at a moment: the release, its data and settings, and who shared traffic."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.release import Release
from flywheel.contracts.split import RolloutState
from flywheel.registry.history import RolloutHistory, rollout_histories
from flywheel.registry.ports import RegistryReading, RolloutLine, TransitionLine
from flywheel.registry.release_folder import PARTS, SERVED


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decided a task's answers at a moment; all None or empty before the first
    release.

    ``since`` is when the release became champion, by ``decided_by``, for ``reason``. ``recipe`` is
    what training and compression were told, ``settings`` how the model is asked, stored and
    calibrated (release.json), with the prompt of a language model in ``prompt``; ``engine`` and
    ``feature_view`` are parts of the release's id. ``champion_share`` and
    ``challenger_share`` are of live traffic (0–1), and
    ``rollout_state`` how the rollout stood that ran at the moment, if one did.
    """

    task: str
    at: datetime
    release: str | None = None
    since: datetime | None = None
    decided_by: str = ""
    reason: str = ""
    dataset_version: str | None = None
    dataset: DatasetVersioned | None = None
    git_commit: str = ""
    accuracy: float | None = None
    recipe: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    prompt: dict[str, Any] | None = None
    engine: str = ""
    feature_view: str = ""
    champion_share: float = 0.0
    challenger: str | None = None
    challenger_share: float = 0.0
    rollout_id: str | None = None
    rollout_state: RolloutState | None = None


def served_at(tx: RegistryReading, task: str, at: datetime) -> Served:
    """What served ``task`` at ``at``, from what the controller and the trainer recorded."""
    rollouts = rollout_histories(tx, task)
    champion = _champion(rollouts, at)
    if champion is None:
        return Served(task=task, at=at)
    rollout, became = champion
    release = tx.releases.get(rollout.challenger)
    served = Served(
        task=task,
        at=at,
        release=rollout.challenger,
        since=became.at,
        decided_by=became.decided_by,
        reason=became.reason,
        champion_share=1.0,
    )
    if release is not None:
        served = _described(served, release, tx)
    return _shared(served, _running(rollouts, at))


def _champion(
    rollouts: Iterable[RolloutHistory], at: datetime
) -> tuple[RolloutLine, TransitionLine] | None:
    """The last change of champion that was no later than ``at``."""
    changes = [
        (rollout, transition)
        for rollout, transitions in rollouts
        for transition in transitions
        if transition.at <= at and transition.state in ("promoted", "serving")
    ]
    return max(changes, key=lambda change: change[1].at, default=None)


def _running(
    rollouts: Iterable[RolloutHistory], at: datetime
) -> tuple[RolloutLine, TransitionLine] | None:
    """The rollout that had begun at ``at`` and had not ended, as it stood."""
    for rollout, transitions in rollouts:
        past = [transition for transition in transitions if transition.at <= at]
        if past and past[-1].state not in ("promoted", "serving", "rolled_back"):
            return rollout, past[-1]
    return None


def _described(served: Served, release: Release, tx: RegistryReading) -> Served:
    versions = {version.version: version for version in tx.datasets.history(release.task)}
    recipe = {k: v for k, v in release.recipe.items() if k not in (PARTS, SERVED)}
    parts = release.recipe.get(PARTS) or {}
    settings = release.recipe.get(SERVED) or {}
    return msgspec.structs.replace(
        served,
        dataset_version=release.dataset_version,
        dataset=versions.get(release.dataset_version),
        git_commit=release.git_commit,
        accuracy=release.accuracy,
        recipe=recipe,
        settings=settings,
        prompt=settings.get("prompt"),
        engine=str(parts.get("deployment", "")),
        feature_view=str(parts.get("feature_view", "")),
    )


def _shared(served: Served, running: tuple[RolloutLine, TransitionLine] | None) -> Served:
    if running is None:
        return served
    rollout, stood = running
    return msgspec.structs.replace(
        served,
        champion_share=1.0 - stood.share,
        challenger=rollout.challenger,
        challenger_share=stood.share,
        rollout_id=rollout.rollout_id,
        rollout_state=stood.state,
    )
