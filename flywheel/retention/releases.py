"""Which releases and dataset versions are kept no longer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from flywheel.errors import ArtefactError


class ReleaseUse(msgspec.Struct, frozen=True, kw_only=True):
    """A release, and what it is needed for: ``champion`` now, ``served_until`` when it last was,
    ``needed`` by a rollout that runs or waits, or that somebody has asked for."""

    release: str
    dataset_version: str
    parent: str | None
    registered_at: datetime
    champion: bool
    served_until: datetime | None
    needed: bool


class PrunedRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A release whose bytes were taken away; ``done`` once they are."""

    release: str
    task: str
    at: datetime
    why: str
    done: bool

    @property
    def described(self) -> str:
        """When and why, and what that means."""
        return (
            f"release {self.release} was pruned on {self.at:%Y-%m-%d} ({self.why}): its bytes are "
            "gone for good; `flywheel releases list` has those that are left"
        )


def refuse_pruned(pruned: PrunedRelease | None) -> None:
    """Raise ArtefactError for a release that was pruned, with when and why."""
    if pruned is not None:
        raise ArtefactError(pruned.described)


class DatasetUse(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset version whose bytes are kept."""

    version: str
    parent: str | None
    made_at: datetime


def releases_to_prune(uses: Sequence[ReleaseUse], days: int, now: datetime) -> list[str]:
    """Those of a task's releases (oldest first) that served, or were registered, more than ``days``
    ago (0: none). The champion stays, what a rollout needs or somebody asks for, and the newest,
    which a turn begins from."""
    if not days:
        return []
    before = now - timedelta(days=days)
    return [
        use.release
        for use in uses[:-1]
        if not use.champion
        and not use.needed
        and max(use.served_until or use.registered_at, use.registered_at) < before
    ]


def datasets_to_prune(
    made: Sequence[DatasetUse], kept: Sequence[ReleaseUse], days: int, now: datetime
) -> list[str]:
    """Those of a task's dataset versions (oldest first) that were made more than ``days`` ago (0:
    none) and of which no kept release was made. The newest stays, and the one it follows."""
    if not days or not made:
        return []
    before = now - timedelta(days=days)
    stays = {made[-1].version, made[-1].parent, *(use.dataset_version for use in kept)}
    return [one.version for one in made if one.version not in stays and one.made_at < before]
