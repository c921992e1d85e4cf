"""`flywheel down`: every process of a workspace ended, whether or not its supervisor lives."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from flywheel.errors import WorkspaceError
from flywheel.ops.orphans import Member, end, members
from flywheel.ops.supervisor import Supervisor, programs
from flywheel.ops.up_lock import holder, lock_file
from flywheel.settings import FlywheelSettings

_MARGIN_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """What `stop` ended: what a supervisor ran, what a killed one had left, what would not end."""

    supervised: tuple[str, ...] = ()
    orphans: tuple[Member, ...] = ()
    left: tuple[Member, ...] = ()


def stop(settings: FlywheelSettings) -> Stopped:
    """End all that runs of this workspace and return when it has ended.

    A supervisor ends its processes in its own good order, by force when it must; what has no
    supervisor is ended here.
    """
    pid = holder(settings)
    supervised = tuple(dict.fromkeys(m.name for m in members(settings))) if pid else ()
    if pid is not None:
        _stop_supervisor(settings, pid)
    orphans = tuple(members(settings))
    left = tuple(end(settings)) if orphans else ()
    if (pid := holder(settings)) is not None:
        left = (*left, Member("supervisor", pid))
    return Stopped(supervised, () if supervised else orphans, left)


def _stop_supervisor(settings: FlywheelSettings, pid: int) -> None:
    try:
        Supervisor(settings).shutdown()
    except WorkspaceError:
        # It is `up` that only prepares yet, is ending already, or hangs.
        _terminate(settings, pid)
    patience = sum(program.stop_seconds for program in programs(settings)) + _MARGIN_SECONDS
    deadline = time.monotonic() + patience
    while holder(settings) == pid and time.monotonic() < deadline:
        time.sleep(0.1)


def _terminate(settings: FlywheelSettings, pid: int) -> None:
    """End the process if it has this workspace's lock open: a noted pid alone proves nothing."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if str(lock_file(settings)) in {opened.path for opened in process.open_files()}:
            process.send_signal(signal.SIGTERM)
