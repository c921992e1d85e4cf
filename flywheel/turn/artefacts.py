"""The releases of a workspace, wired: by its settings, with addresses from its database."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from flywheel.errors import ArtefactError, ArtefactStoreError
from flywheel.registry.release_folders import ReleaseFolders
from flywheel.settings import FlywheelSettings
from storage.database import Database
from storage.objects import open_artefacts
from storage.workspace import kept_in

# Between attempts: a store that is away for two minutes costs no turn.
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 75.0)

T = TypeVar("T")
_log = structlog.get_logger(__name__)


def open_release_folders(settings: FlywheelSettings, database: Database) -> ReleaseFolders:
    """Releases that were made here, and those that can be fetched from ``artefacts.url``."""
    return ReleaseFolders(settings.layout, open_artefacts(settings), kept_in(database))


def patiently(attempt: Callable[[], T], wait: Callable[[float], object]) -> T:
    """What ``attempt`` gives once the store can be reached, or what it raises when that takes long.

    ``wait`` takes seconds and says whether this process is to end; the turn is then resumed.
    """
    for pause in PAUSES:
        try:
            return attempt()
        except ArtefactStoreError as error:
            _log.warning("will try the store of artefacts again", error=str(error), in_s=pause)
            if wait(pause):
                raise SystemExit(0) from error
    return attempt()


def put_missing(settings: FlywheelSettings, database: Database, owner: str) -> None:
    """Put every release that lies here and the store lacks, and record its address.

    They were made by an earlier version, or for another store. What cannot be put is logged: it
    goes on serving where it lies. What was pruned stays out of the store: the next pruning here
    takes it away.
    """
    folders = open_release_folders(settings, database)
    for task in settings.tasks:
        with database.transaction(read_only=True) as tx:
            releases = tx.releases.history(task)
            pruned = {one.release for one in tx.pruned.history(task)}
        for release in releases:
            if release.release in pruned or not folders.made_here(release.release):
                continue
            try:
                if folders.has(release):
                    continue
                kept = folders.publish(release).kept
            except ArtefactStoreError as error:
                _log.warning("releases not put", reason=str(error))
                return
            except ArtefactError as error:
                _log.warning("release not put", release=release.release, reason=str(error))
                continue
            if kept is not None:
                with database.transaction(owner) as tx:
                    tx.releases.keep(kept)
                _log.info("release put", release=release.release, address=kept.address)
