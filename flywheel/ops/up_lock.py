"""The right to run a workspace's processes: one `up` at a time, and who it is."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from flywheel.errors import WorkspaceError
from flywheel.ops.supervisor import flywheel_command
from flywheel.settings import FlywheelSettings

# Who only looks whether the lock is held holds it for a moment; it must not stop an `up`.
_LOOK_SECONDS = 0.5


def lock_file(settings: FlywheelSettings) -> Path:
    """The file whose lock is the right to run this workspace's processes; it notes the holder."""
    return settings.layout.up_lock


def lock(settings: FlywheelSettings) -> IO[str]:
    """The right to run this workspace's processes, held while the file is open.

    Raises WorkspaceError when another `up` holds it.
    """
    path = lock_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("a+")
    deadline = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            handle.seek(0)
            noted = handle.read().strip() or "unknown"
            handle.close()
            raise WorkspaceError(
                f"{settings.workspace} is running already (process {noted}): use it, or stop it "
                f"with {flywheel_command(settings, 'down')}"
            ) from None
    handle.seek(0)
    handle.truncate()
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def holder(settings: FlywheelSettings) -> int | None:
    """The pid of the `up` (by then the supervisor) that holds the lock, or None when none does."""
    try:
        with lock_file(settings).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _noted_holder(settings)
    except OSError:
        return None
    return None


def _noted_holder(settings: FlywheelSettings) -> int | None:
    """Whoever takes the lock notes itself at once: an empty note is one that is being written."""
    deadline = time.monotonic() + _LOOK_SECONDS
    while time.monotonic() < deadline:
        if (noted := lock_file(settings).read_text("utf-8").strip()).isdigit():
            return int(noted)
        time.sleep(0.02)
    return None
