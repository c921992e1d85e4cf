"""Retention of a workspace, wired: rows by day, images, releases and dataset versions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from flywheel.retention.config import RetentionSettings
from flywheel.retention.sweep import cutoffs, plan, sweep
from flywheel.settings import FlywheelSettings
from flywheel.upkeep.images import remove_images
from flywheel.upkeep.pruning import prunable, prune_cache, prune_task
from storage.archive import RowArchive
from storage.database import Database
from storage.objects import open_blobs

# The name under which one process at a time removes anything, by retention or by an erasure.
REMOVING = "removing"


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """What would go of a task: rows by kind (requests, answers of releases, queued samples) and
    what is older than which moment, releases, dataset versions. ``departed``: flywheel.toml has the
    task no more, and it goes only where somebody says so."""

    task: str
    departed: bool
    before: dict[str, datetime]
    rows: dict[str, int]
    releases: list[str]
    datasets: list[str]


def settings_of(settings: FlywheelSettings, task: str) -> RetentionSettings:
    """How long data of a task is kept; of one that is in flywheel.toml no more, as of any."""
    if task not in settings.tasks:
        return settings.retention
    return settings.task(task).retention.within(settings.retention)


def planned(settings: FlywheelSettings, database: Database, now: datetime) -> list[Planned]:
    """What retention would remove now, task by task. Reads only."""
    tasks = [*settings.tasks, *departed(settings, database)]
    return [_planned(settings, database, task, now) for task in tasks]


def departed(settings: FlywheelSettings, database: Database) -> list[str]:
    """Tasks of which there is, or was, something and that flywheel.toml has no more."""
    with database.transaction(read_only=True) as tx:
        return sorted(tx.erasures.tasks().difference(settings.tasks))


def _planned(settings: FlywheelSettings, database: Database, task: str, now: datetime) -> Planned:
    before = cutoffs(settings_of(settings, task), now)
    releases, datasets = prunable(settings, database, task, settings_of(settings, task), now)
    counted = plan(lambda: database.transaction(read_only=True), task, before)
    return Planned(
        task=task,
        departed=task not in settings.tasks,
        before={str(kind): moment for kind, moment in before.items()},
        rows={str(kind): count for kind, count in counted.items()},
        releases=releases,
        datasets=datasets,
    )


def remove_rows(
    settings: FlywheelSettings,
    database: Database,
    now: datetime,
    stopping: Callable[[], bool] = lambda: False,
    rest: Callable[[float], object] = time.sleep,
    others: Sequence[str] = (),
) -> dict[str, Counter[str]] | None:
    """Remove the rows that are too old, of the tasks of flywheel.toml and of ``others``, and images
    that no sample shows any more; task → table → rows that went. None where another process is at
    it."""
    # Of two clocks the earlier one: one that runs ahead must cost nothing.
    now = min(now, database.now())
    with database.alone(REMOVING) as mine:
        if not mine:
            return None
        blobs = open_blobs(settings)
        archive = RowArchive(database, blobs)
        archive.recover(now)
        went: dict[str, Counter[str]] = {}
        for task in (*settings.tasks, *others):
            of_task = settings_of(settings, task)
            went[task] = sweep(
                database.transaction,
                lambda: database.transaction(read_only=True),
                task,
                cutoffs(of_task, now),
                archive if of_task.archive else None,
                stopping,
                rest,
            )
            if stopping():
                return went
        remove_images(database, blobs, settings.kafka)
        return went


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What went of a task: rows by table, releases, dataset versions."""

    task: str
    rows: dict[str, int]
    releases: list[str]
    datasets: list[str]

    def went(self) -> dict[str, int]:
        """All of it, counted."""
        more = {"releases": len(self.releases), "dataset versions": len(self.datasets)}
        return self.rows | {name: count for name, count in more.items() if count}


def remove_all(
    settings: FlywheelSettings, database: Database, now: datetime, others: Sequence[str] = ()
) -> list[Removed] | None:
    """Remove all that is kept no longer, of the tasks of flywheel.toml and of ``others``: rows,
    images, and what lies in this workspace. None where another process is at it."""
    rows = remove_rows(settings, database, now, others=others)
    if rows is None:
        return None
    removed = []
    for task in (*settings.tasks, *others):
        releases, datasets = prune_task(settings, database, task, settings_of(settings, task), now)
        removed.append(
            Removed(task=task, rows=dict(rows[task]), releases=releases, datasets=datasets)
        )
    if not _turn_runs(settings, database):  # it may have stored what it has not named yet
        prune_cache(settings, settings.retention.datasets, now)
    return removed


def _turn_runs(settings: FlywheelSettings, database: Database) -> bool:
    with database.transaction(read_only=True) as tx:
        return any(tx.pruned.turn_running(task) for task in settings.tasks)
