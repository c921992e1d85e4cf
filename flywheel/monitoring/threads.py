"""Threads that live as long as their process: what ends one is said by /healthz, and it begins
again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from weakref import WeakSet

import structlog

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
# How long a thread that began again has to last to count as well.
_WELL_AFTER = 10.0

_log = structlog.get_logger(__name__)
_lasting: WeakSet[LastingThread] = WeakSet()
_ended: dict[str, str] = {}  # threads of others by name, and what ended them


class LastingThread:
    """Runs ``work`` on a daemon thread until it returns, and begins it again whenever it raises.

    ``work`` returns when its owner asked it to, or when all is done. Between its end and its new
    beginning, and until that has lasted for a while, ``problem`` says what happened.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        *,
        first_pause: float = _FIRST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._work = work
        self._first_pause = first_pause
        self._clock = clock
        self._problem: str | None = None
        self._again_at: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Work from now on."""
        _lasting.add(self)
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether there is work to come."""
        return self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait for ``work``, which its owner told to return; it does not begin again."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        _lasting.discard(self)

    def problem(self) -> str | None:
        """What ended the work, while it waits to begin again and shortly after; or None."""
        if self._problem is None:
            return None
        if self._again_at is not None and self._clock() - self._again_at >= _WELL_AFTER:
            self._problem = None
        return self._problem

    def _run(self) -> None:
        pause = self._first_pause
        while True:
            began = self._clock()
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - the thread's boundary
                self._again_at = None
                self._problem = f"{self.name}: {type(error).__name__}: {error}"
                _log.exception("thread ended, beginning it again", thread=self.name)
            else:
                return
            if self._clock() - began >= _WELL_AFTER:
                pause = self._first_pause
            if self._over.wait(pause):
                return
            pause = min(_LONGEST_PAUSE, pause * 2)
            self._again_at = self._clock()


def threads_problem() -> str | None:
    """Which threads of this process have ended, and what of; or None."""
    mine = [problem for thread in list(_lasting) if (problem := thread.problem()) is not None]
    return "; ".join(sorted([*mine, *_ended.values()])) or None


def watch_threads() -> None:
    """Remember every other thread that ends by an error, also one of a library: nobody begins it
    again, so that the process is not well until it is started anew."""
    before = threading.excepthook

    def ended(what: threading.ExceptHookArgs) -> None:
        name = what.thread.name if what.thread is not None else "a thread"
        if what.exc_type is not SystemExit:
            _ended[name] = f"{name} ended: {what.exc_type.__name__}: {what.exc_value}"
            _log.error("thread ended", thread=name, error=str(what.exc_value))
        before(what)

    threading.excepthook = ended
