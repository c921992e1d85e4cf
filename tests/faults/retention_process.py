"""Retention, or an erasure, in a process that dies of kill -9 at a point of its own choosing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flywheel.contracts.ids import utc_now
from flywheel.settings import load_settings
from flywheel.upkeep.erasure import erase
from flywheel.upkeep.retention import remove_rows
from storage.archive import RowArchive
from storage.database import Database
from storage.objects.folder import FolderBlobs
from storage.repositories.archived import SqlArchiveFiles
from storage.repositories.erasure import SqlErasures
from storage.repositories.expiry import SqlExpiry

# Point → whose method, at which call, and whether it is done by then.
POINTS: dict[str, tuple[type, str, int, bool]] = {
    "archive: file written": (FolderBlobs, "write_file", 1, True),
    "archive: file listed": (SqlArchiveFiles, "written", 1, True),
    "remove: before": (SqlExpiry, "remove", 1, False),
    "remove: in the second part": (SqlExpiry, "remove", 2, True),
    "remove: in the third part": (SqlExpiry, "remove", 3, True),
}
ERASING: dict[str, tuple[type, str, int, bool]] = {
    "erase: recorded": (SqlErasures, "remove", 1, False),
    "erase: in the second part": (SqlErasures, "remove", 2, True),
    "erase: rows gone": (RowArchive, "rewrite_without", 1, False),
    "erase: archive file to go": (SqlArchiveFiles, "going", 1, False),
    "erase: archive file gone": (SqlArchiveFiles, "gone", 1, False),
    "erase: before the end": (SqlErasures, "finish", 1, False),
}


def die_at(point: str) -> None:
    """Have this process killed there."""
    owner, name, at, done = (POINTS | ERASING)[point]
    ours: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1, 1_000_000))

    def dying(*arguments: Any, **named: Any) -> Any:
        now = next(calls) == at
        if now and not done:
            os.kill(os.getpid(), signal.SIGKILL)
        result = ours(*arguments, **named)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


if __name__ == "__main__":
    die_at(sys.argv[2])
    settings = load_settings(Path(sys.argv[1]), {})
    database = Database(settings.database)
    if sys.argv[2] in POINTS:
        remove_rows(settings, database, utc_now())
    else:
        erase(settings, database, ["species"], user="kim", sample=None, by="ada", why="asked")
