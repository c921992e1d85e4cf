"""The database of a workspace: opened by its settings, and asked what serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flywheel.contracts.private_files import private_folder
from flywheel.contracts.release import KeptRelease
from flywheel.retention.releases import refuse_pruned
from flywheel.settings import FlywheelSettings
from storage import counting
from storage.database import Database


@contextmanager
def open_database(settings: FlywheelSettings) -> Iterator[Database]:
    """The workspace's database, its schema up to date."""
    private_folder(settings.state)
    database = Database(settings.database)
    try:
        with counting.shown() as progress:
            database.migrate(progress)
        yield database
    finally:
        database.dispose()


def kept_in(database: Database) -> Callable[[str], KeptRelease | None]:
    """Where a release is kept, as the database has it; None where it does not say. Asking raises
    ArtefactError for one that was pruned."""

    def kept(release: str) -> KeptRelease | None:
        with database.transaction(read_only=True) as tx:
            record, pruned = tx.releases.get(release), tx.pruned.get(release)
        refuse_pruned(pruned)
        return None if record is None else record.kept

    return kept


def champions(database: Database, settings: FlywheelSettings) -> dict[str, str]:
    """Task → its champion, as the database has it. Raises StorageError when it is away."""
    with database.transaction(read_only=True) as tx:
        known = tx.rollouts.champions()
    return {task: release for task, release in known.items() if task in settings.tasks}
