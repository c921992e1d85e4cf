"""How far counting a database anew has come, for whoever waits for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import structlog

from storage.totals import Progress

_EVERY_SECONDS = 5.0
_log = structlog.get_logger(__name__)


@contextmanager
def shown() -> Iterator[Progress]:
    """A bar on a terminal, a line now and then in a log; nothing where nothing is counted."""
    with ExitStack() as stack:
        yield _Bars(stack) if sys.stderr.isatty() else _Lines()


class _Lines:
    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, kind: str, done: int, parts: int) -> None:
        now = time.monotonic()
        if parts and (done == parts or now - self._said > _EVERY_SECONDS):
            self._said = now
            _log.info("counting what the database keeps", kind=kind, done=done, parts=parts)


class _Bars:
    """Made when there is something to show."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._bars: Any = None
        self._started: dict[str, Any] = {}

    def __call__(self, kind: str, done: int, parts: int) -> None:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import Progress as Bars

            self._bars = self._stack.enter_context(Bars(console=Console(stderr=True)))
        if kind not in self._started:
            self._started[kind] = self._bars.add_task(f"counting {kind}", total=max(1, parts))
        self._bars.update(self._started[kind], completed=done if parts else 1)
