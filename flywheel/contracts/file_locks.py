"""Locks that end with the process that holds them, whatever ends it."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from flywheel.contracts.private_files import private_folder


class FileLock:
    """A lock on a file, held until ``release`` or the end of the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """The lock, or None while another process (or this one) has it. Raises OSError where the
        file cannot be made."""
        private_folder(path.parent)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its holder before may have deleted it: a lock on that would keep nobody out.
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return cls(fd)
            except BlockingIOError:
                os.close(fd)
                return None
            except FileNotFoundError:
                private_folder(path.parent)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def release(self) -> None:
        """Let others have it."""
        with suppress(OSError):
            os.close(self._fd)
