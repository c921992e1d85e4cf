"""How far counting a database anew has come, for whoever waits for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from storage.totals import Progress

_EVERY_SECONDS = 5.0
_log = structlog.get_logger(__name__)


@contextmanager
def shown() -> Iterator[Progress]:
    """A bar on a terminal, a line now and then in a log; nothing where nothing is counted."""
    if sys.stderr.isatty():
        with _bars() as bars:
            yield bars
    else:
        yield _Lines()


class _Lines:
    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, kind: str, done: int, parts: int) -> None:
        now = time.monotonic()
        if done == parts or now - self._said > _EVERY_SECONDS:
            self._said = now
            _log.info("counting what the database keeps", kind=kind, done=done, parts=parts)


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    started: dict[str, TaskID] = {}
    with Bars(console=Console(stderr=True)) as bars:

        def show(kind: str, done: int, parts: int) -> None:
            if kind not in started:
                started[kind] = bars.add_task(f"counting {kind}", total=max(1, parts))
            bars.update(started[kind], completed=done if parts else 1)

        yield show
