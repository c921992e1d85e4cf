"""`flywheel up` says when all of it is healthy, and where; the supervisor has taken its place."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from typing import IO

from flywheel.errors import WorkspaceError
from flywheel.ops.await_healthy import wait_healthy
from flywheel.ops.supervisor import address
from flywheel.ops.up_lock import holder
from flywheel.settings import FlywheelSettings

# A start takes some ten seconds, on a busy machine a minute: whoever is later has something to say.
_PATIENCE_SECONDS = 90.0


def announce_beside(settings: FlywheelSettings, held: IO[str], say: Callable[[str], None]) -> None:
    """``announce`` in a process of its own, which ends with it or with the supervisor.

    ``held`` is the lock of this process, which the other one lets go.
    """
    if os.fork():
        return
    status = 1
    try:
        # Ctrl-C is for the supervisor; this one then just ends.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        held.close()
        announce(settings, say)
        status = 0
    finally:
        os._exit(status)


def announce(
    settings: FlywheelSettings,
    say: Callable[[str], None],
    patience: float = _PATIENCE_SECONDS,
) -> None:
    """Say once when every process is healthy, and before that, after ``patience`` seconds, who is
    not and why. Returns then, or when the supervisor ends."""
    began = time.monotonic()
    for timeout in (patience, math.inf):
        try:
            wait_healthy(settings, timeout)
        except WorkspaceError as error:
            if holder(settings) is None:
                return  # it has said itself why, where it was started
            say(f"not yet healthy: {error}")
            continue
        say(f"all is healthy after {time.monotonic() - began:.0f} s: {addresses(settings)}")
        return


def addresses(settings: FlywheelSettings) -> str:
    """Where people and clients go."""
    console, gateway = settings.console, settings.gateway
    return (
        f"console {address(console.host, console.port)}  "
        f"gateway {address(gateway.host, gateway.port)}"
    )
