"""The registry's JSON API: releases, their lineage and history, and what served at a moment."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.release import Release
from flywheel.errors import NotFound, RequestError
from flywheel.monitoring.answers import answers, json_answer
from flywheel.registry.diff import ReleaseDiff, diff, read_files
from flywheel.registry.history import StatusChange, read_history
from flywheel.registry.lineage import lineage
from flywheel.registry.ports import RegistryReading
from flywheel.registry.served import Served
from flywheel.registry.served import served_at as what_served

Hold = AbstractContextManager[Path]
Transactions = Callable[[], AbstractContextManager[RegistryReading]]


class Releases(msgspec.Struct, frozen=True, kw_only=True):
    """Every release of a task, newest first."""

    releases: list[Release]


class ReleaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A release, the dataset it was trained on, its parents (nearest first), its children, and what
    became of it (oldest first)."""

    release: Release
    dataset: DatasetVersioned | None
    ancestors: list[Release]
    descendants: list[Release]
    history: list[StatusChange]


# What the routes below answer with.
ANSWERS = (Releases, ReleaseView, ReleaseDiff, Served)


def router(
    transactions: Transactions, tasks: Collection[str], hold: Callable[[str], Hold]
) -> APIRouter:
    """Routes under /api/releases. Errors are FlywheelErrors, for the app's problem details.

    ``hold`` has a release's folder stay here for as long as its block lasts.
    """
    routes = APIRouter(prefix="/api/releases", tags=["registry"])
    known: dict[int | str, dict[str, Any]] = {404: {"description": "No such task or release."}}

    def check(task: str) -> None:
        if task not in tasks:
            raise NotFound(f"no task {task!r} (tasks: {', '.join(sorted(tasks)) or 'none'})")

    @routes.get("/{task}", responses=known | answers(Releases, "Newest first."))
    def releases(task: str) -> Response:
        """Every release of a task, newest first."""
        check(task)
        with transactions() as tx:
            return json_answer(Releases(releases=tx.releases.history(task)[::-1]))

    @routes.get("/{task}/served-at", responses=known | answers(Served, "What served then."))
    def served_at(
        task: str,
        at: Annotated[datetime, Query(description="A moment (ISO 8601); UTC without a zone.")],
    ) -> Response:
        """What served at a moment, on which data and settings; release null before the first."""
        check(task)
        try:
            moment = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        except OverflowError:
            raise RequestError("at: there is no such moment in UTC") from None
        with transactions() as tx:
            return json_answer(what_served(tx, task, moment))

    @routes.get(
        "/{task}/diff", responses=known | answers(ReleaseDiff, "What differs, and nothing else.")
    )
    def difference(task: str, a: str, b: str) -> Response:
        """What differs from release ``a`` to release ``b``."""
        check(task)
        with transactions() as tx:
            releases = [lineage(tx, task, release).release for release in (a, b)]
        one, two = (read_files(release, hold) for release in releases)
        return json_answer(diff(one, two))

    @routes.get("/{task}/{release}", responses=known | answers(ReleaseView, "The release."))
    def release(task: str, release: str) -> Response:
        """One release with its dataset version, its ancestors and its history."""
        check(task)
        with transactions() as tx:
            family = lineage(tx, task, release)
            history = read_history(tx, family.release)
        return json_answer(
            ReleaseView(
                release=family.release,
                dataset=family.dataset,
                ancestors=family.ancestors,
                descendants=family.descendants,
                history=history,
            )
        )

    return routes
