"""Waiting until every process of a workspace is well, or until it is known that it will not be."""

from __future__ import annotations

import time
from typing import Any

from flywheel.errors import WorkspaceError
from flywheel.ops.health import health_problem
from flywheel.ops.supervisor import Program, Supervisor, flywheel_command, log_tail, programs
from flywheel.ops.up_lock import holder
from flywheel.settings import FlywheelSettings

# `flywheel up &` is mostly called just before: so long it may take until it holds its lock.
GRACE_SECONDS = 15.0
_LOOK_SECONDS = 0.2
_LINES_OF_SUPERVISOR = 5


def wait_healthy(settings: FlywheelSettings, timeout: float, grace: float = GRACE_SECONDS) -> None:
    """Return when every process runs and says that it is healthy.

    Raises WorkspaceError as soon as the supervisor that was there has ended, or after ``grace``
    seconds without one; and after ``timeout`` naming the first process that is not healthy, with
    the tail of its log.
    """
    began = time.monotonic()
    waiting = programs(settings)
    seen = False
    while True:
        supervised = holder(settings) is not None
        waited = time.monotonic() - began
        if not supervised and (seen or waited >= min(grace, timeout)):
            raise WorkspaceError(_unsupervised(settings, waited, ended=seen))
        seen = seen or supervised
        try:
            states = Supervisor(settings).processes() if supervised else {}
        except WorkspaceError:
            states = {}
        waiting = [one for one in waiting if not _healthy(one, states.get(one.name, {}))]
        if not waiting:
            return
        if supervised and waited > timeout:
            name = waiting[0].name
            raise WorkspaceError(
                f"{name} did not come up in {timeout:.0f} s; the end of its log:\n"
                + log_tail(settings, name)
            )
        time.sleep(_LOOK_SECONDS)


def _unsupervised(settings: FlywheelSettings, waited: float, *, ended: bool) -> str:
    up = flywheel_command(settings, "up")
    said = (
        f"`flywheel up` of {settings.workspace} ended before all was healthy: it says why where it "
        f"was started; begin again with {up}"
        if ended
        else f"no supervisor runs for {settings.workspace} (looked for {waited:.0f} s): start it "
        f"with {up}, or look there why it ended"
    )
    if settings.layout.log("supervisor").exists():
        last = log_tail(settings, "supervisor", _LINES_OF_SUPERVISOR)
        said += f"; the end of the supervisor's log:\n{last}"
    return said


def _healthy(program: Program, state: dict[str, Any]) -> bool:
    if state.get("statename") not in {"RUNNING", "STARTING"}:
        return False
    if program.health is None:
        return state.get("statename") == "RUNNING"
    return health_problem(program.health) is None
