"""What every long-running process shares: signals, the log, a loop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import structlog

from flywheel.contracts.private_files import private_folder
from flywheel.errors import FlywheelError
from flywheel.monitoring.logs import configure_logging
from flywheel.monitoring.threads import watch_threads
from flywheel.settings import FlywheelSettings

_log = structlog.get_logger(__name__)


def stop_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set. To be called in the main thread."""
    stopping = threading.Event()

    def stop(number: int, _frame: object) -> None:
        _log.info("stopping", signal=signal.Signals(number).name)
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopping


def begin(process: str, settings: FlywheelSettings) -> None:
    """Configure the log, close the state folder to other users, and say that a process starts."""
    configure_logging(process, settings.log_level)
    watch_threads()
    private_folder(settings.state)
    _log.info("starting", pid=os.getpid(), workspace=str(settings.workspace))


def loop(stopping: threading.Event, seconds: float, step: Callable[[], None]) -> None:
    """Call ``step`` every ``seconds`` until told to stop.

    A retryable error (the database locked, the broker away) is logged and the step tried again,
    ever more slowly up to 10 s; any other ends the process, and the supervisor restarts it.
    """
    failures = 0
    while not stopping.is_set():
        began = time.monotonic()
        try:
            step()
            failures = 0
        except FlywheelError as error:
            if not error.retryable:
                raise
            failures += 1
            _log.warning("will try again", error=str(error), code=error.code, failures=failures)
        pause = min(10.0, seconds * 2 ** min(failures, 6))
        stopping.wait(max(0.0, pause - (time.monotonic() - began)))
