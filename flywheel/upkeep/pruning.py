"""Releases and dataset versions that are kept no longer: which, and their bytes taken away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from datetime import datetime

from flywheel.contracts.artefacts import Address, FolderList
from flywheel.datasets.versions import pruned as pruned_datasets
from flywheel.datasets.workspace import prune as prune_dataset
from flywheel.datasets.workspace import sweep_cache
from flywheel.errors import Conflict, NotFound
from flywheel.registry.release_folder import release_folder
from flywheel.retention.config import RetentionSettings
from flywheel.retention.releases import (
    DatasetUse,
    datasets_to_prune,
    releases_to_prune,
)
from flywheel.settings import FlywheelSettings
from storage.database import Database
from storage.objects import open_blobs
from storage.objects.blobs import Blobs
from storage.objects.store import file_key, key_of


def prunable(
    settings: FlywheelSettings,
    database: Database,
    task: str,
    retention: RetentionSettings,
    now: datetime,
) -> tuple[list[str], list[str]]:
    """(releases, dataset versions) of a task that are kept no longer; none while a turn runs."""
    with database.transaction(read_only=True) as tx:
        if tx.pruned.turn_running(task):
            return [], []
        uses = tx.pruned.uses(task)
        versions = tx.datasets.history(task)
    releases = releases_to_prune(uses, retention.releases, now)
    kept = [use for use in uses if use.release not in releases]
    gone = pruned_datasets(settings.workspace, task) if settings.layout.git.exists() else {}
    made = [
        DatasetUse(version=one.version, parent=one.parent, made_at=one.occurred_at)
        for one in versions
        if one.version not in gone
    ]
    return releases, datasets_to_prune(made, kept, retention.datasets, now)


def prune_task(
    settings: FlywheelSettings,
    database: Database,
    task: str,
    retention: RetentionSettings,
    now: datetime,
) -> tuple[list[str], list[str]]:
    """Take away what ``prunable`` names, and what an earlier call was ended over, or what one on
    another host could not reach; what went.

    The workspace is the trainer's: it has the releases that were made there, and DVC's cache.
    """
    releases, datasets = prunable(settings, database, task, retention, now)
    releases = _mark(database, task, retention, now) if releases else []
    with database.transaction(read_only=True) as tx:
        pruned = tx.pruned.history(task)
    for one in pruned:
        if not one.done or _lies_here(settings, one.release):
            _remove_release(settings, database, one.release)
    went = [version for version in datasets if _prune_dataset(settings, task, version, retention)]
    return releases, went


def _mark(database: Database, task: str, retention: RetentionSettings, now: datetime) -> list[str]:
    """Note what is pruned before its bytes go; decided once more, since somebody may have asked
    for one of them meanwhile, or begun a turn."""
    with database.transaction() as tx:
        tx.pruned.hold()
        if tx.pruned.turn_running(task):
            return []
        going = releases_to_prune(tx.pruned.uses(task), retention.releases, now)
        for release in going:
            tx.pruned.add(release, task, now, f"not needed for {retention.releases} days")
    return going


def _lies_here(settings: FlywheelSettings, release: str) -> bool:
    folder = release_folder(settings.state, release)
    held_out = settings.layout.held_out_answers(release)
    return any(os.path.lexists(path) for path in (folder, held_out))


def _prune_dataset(
    settings: FlywheelSettings, task: str, version: str, retention: RetentionSettings
) -> bool:
    if not settings.layout.dvc.exists():
        return False
    reason = f"retention: older than {retention.datasets} days"
    try:
        prune_dataset(settings.workspace, task, version, reason)
    except (Conflict, NotFound):  # the workspace holds it, or another host made it
        return False
    return True


def prune_cache(settings: FlywheelSettings, days: int, now: datetime) -> int:
    """Take from DVC's cache and remote what nothing that is kept names and that is older than
    ``days``: models of earlier turns, above all. How many files went."""
    if not days or not settings.layout.dvc.exists():
        return 0
    return sweep_cache(settings.workspace, now.timestamp() - days * 86_400)


def _remove_release(settings: FlywheelSettings, database: Database, release: str) -> None:
    with database.transaction(read_only=True) as tx:
        record, kept = tx.releases.get(release), tx.pruned.addresses()
    blobs = open_blobs(settings)
    if record is not None:
        for address in filter(None, (record.address, record.base_address)):
            _remove_folder(blobs, Address.parse(address), kept)
    folder = release_folder(settings.state, release)
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
    settings.layout.held_out_answers(release).unlink(missing_ok=True)
    with database.transaction() as tx:
        tx.pruned.done(release)


def _remove_folder(blobs: Blobs, address: Address, kept: Iterable[str]) -> None:
    """Take a folder from the store, with the files that no folder has that is ``kept``."""
    others = [Address.parse(other) for other in kept]
    if address in others:
        return
    listed = _list(blobs, address)
    if listed is None:
        return
    needed = {
        file.sha256
        for other in others
        if (held := _list(blobs, other)) is not None
        for file in held.files.values()
    }
    # The list last: whoever goes on after a crash finds by it what is left.
    for file in listed.files.values():
        if file.sha256 not in needed:
            blobs.remove(file_key(file.sha256))
    blobs.remove(key_of(address))


def _list(blobs: Blobs, address: Address) -> FolderList | None:
    if address.kind != "folder" or blobs.size(key_of(address)) is None:
        return None
    return FolderList.decoded(blobs.read(key_of(address)))
