"""Work on many tasks, each by itself: what is slow or fails in one delays none of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from flywheel.errors import FlywheelError

_LONGEST_PAUSE = 10.0
# Failures in a row before somebody should hear of it: what passes by itself has passed by then.
_TOLD_AFTER = 3

_log = structlog.get_logger(__name__)


class _Task:
    """How the work on one task goes."""

    running = False
    failures = 0
    reason = ""
    not_before = 0.0


class TaskJobs:
    """Thread-safe. Of each name one job runs at a time, in a thread of the pool.

    A job that raises is logged, and may begin again after a pause that grows with its failures.
    """

    def __init__(self, name: str, jobs: int, pause: float = 0.5) -> None:
        """``jobs``: how many names there are; ``pause``: seconds after a first failure."""
        self._pool = ThreadPoolExecutor(max(1, jobs), name)
        self._pause = pause
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}

    def busy(self, name: str) -> bool:
        """Whether a job of this name runs."""
        return name in self._tasks and self._tasks[name].running

    def begin(self, name: str, work: Callable[[], object]) -> bool:
        """Do ``work``, unless one of this name runs or waits after a failure; whether it began."""
        with self._lock:
            task = self._tasks.setdefault(name, _Task())
            if task.running or time.monotonic() < task.not_before:
                return False
            task.running = True
        self._pool.submit(self._run, name, task, work)
        return True

    def problem(self) -> str | None:
        """Which tasks fail again and again, and why (for /healthz), or None."""
        with self._lock:
            failing = [
                (task.reason, name)
                for name, task in self._tasks.items()
                if task.failures >= _TOLD_AFTER
            ]
        reasons: dict[str, list[str]] = {}
        for reason, name in sorted(failing):
            reasons.setdefault(reason, []).append(name)
        return "; ".join(f"{', '.join(of)}: {reason}" for reason, of in reasons.items()) or None

    def stop(self) -> None:
        """Begin nothing more, and wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, name: str, task: _Task, work: Callable[[], object]) -> None:
        reason = ""
        try:
            work()
        except FlywheelError as error:
            reason = str(error)
            _log.warning("task failed, will try again", job=name, error=reason, code=error.code)
        except Exception as error:  # noqa: BLE001 - one task's surprise must not stop the others
            reason = f"{type(error).__name__}: {error}"
            _log.exception("task failed on an error that nobody foresaw", job=name)
        with self._lock:
            task.running = False
            task.failures = task.failures + 1 if reason else 0
            task.reason = reason
            pause = min(_LONGEST_PAUSE, self._pause * 2 ** min(task.failures, 6)) if reason else 0.0
            task.not_before = time.monotonic() + pause
