"""Files and folders that only the user who runs the product may read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_OTHERS = 0o077


def private_folder(folder: Path) -> Path:
    """Make a folder with its parents, if need be, and let nobody else in; returns it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _close(folder)
    return folder


def private_file(path: Path) -> None:
    """Make an empty file if there is none, and let nobody else read or write it."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    _close(path)


def close_to_others(path: Path) -> None:
    """Take the rights of others away from a file, if it is there."""
    with suppress(FileNotFoundError):
        _close(path)


def _close(path: Path) -> None:
    status = path.stat()
    # Of another user's file, the rights are that user's matter.
    if status.st_mode & _OTHERS and status.st_uid == os.geteuid():
        path.chmod(status.st_mode & 0o7777 & ~_OTHERS)
