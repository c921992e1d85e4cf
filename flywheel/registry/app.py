"""The registry's JSON API: releases, their lineage and history, and what served at a moment."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query

from flywheel.errors import NotFound, RequestError
from flywheel.registry.diff import diff, read_files
from flywheel.registry.history import read_history
from flywheel.registry.lineage import lineage
from flywheel.registry.ports import RegistryReading
from flywheel.registry.served import served_at as what_served

Hold = AbstractContextManager[Path]
Transactions = Callable[[], AbstractContextManager[RegistryReading]]


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

    @routes.get("/{task}", responses=known)
    def releases(task: str) -> dict[str, Any]:
        """Every release of a task, newest first."""
        check(task)
        with transactions() as tx:
            found = tx.releases.history(task)
        return {"releases": msgspec.to_builtins(found[::-1])}

    @routes.get("/{task}/served-at", responses=known)
    def served_at(
        task: str,
        at: Annotated[datetime, Query(description="A moment (ISO 8601); UTC without a zone.")],
    ) -> dict[str, Any]:
        """What served at a moment, on which data and settings; release null before the first."""
        check(task)
        try:
            moment = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        except OverflowError:
            raise RequestError("at: there is no such moment in UTC") from None
        with transactions() as tx:
            found = what_served(tx, task, moment)
        answer: dict[str, Any] = msgspec.to_builtins(found)
        return answer | {"at": moment.isoformat()}

    @routes.get("/{task}/diff", responses=known)
    def difference(task: str, a: str, b: str) -> dict[str, Any]:
        """What differs from release ``a`` to release ``b``."""
        check(task)
        with transactions() as tx:
            found = [lineage(tx, task, release).release for release in (a, b)]
        one, two = (read_files(release, hold) for release in found)
        answer: dict[str, Any] = msgspec.to_builtins(diff(one, two))
        return answer

    @routes.get("/{task}/{release}", responses=known)
    def release(task: str, release: str) -> dict[str, Any]:
        """One release with its dataset version, its ancestors and its history."""
        check(task)
        with transactions() as tx:
            found = lineage(tx, task, release)
            history = read_history(tx, found.release)
        return {
            "release": msgspec.to_builtins(found.release),
            "dataset": msgspec.to_builtins(found.dataset),
            "ancestors": msgspec.to_builtins(found.ancestors),
            "descendants": msgspec.to_builtins(found.descendants),
            "history": msgspec.to_builtins(history),
        }

    return routes
