"""A read model that is shared for a moment, however many pages ask for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

Read = TypeVar("Read")

# A value is kept for this many times as long as it took to read, which bounds the work that open
# pages cause, but never so long that a page would look as if it stood still.
_REST = 4.0
_LONGEST = 3.0


class Recent(Generic[Read]):
    """The latest value of each key; read again when it is older than its cost allows.

    One thread reads, the others wait for it or get what it leaves.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = Lock()
        self._locks: dict[str, Lock] = {}
        self._kept: dict[str, tuple[Read, float]] = {}

    def get(self, key: str, read: Callable[[], Read]) -> Read:
        """The kept value of ``key`` if it is still fresh, else a new one."""
        with self._guard:
            lock = self._locks.setdefault(key, Lock())
        with lock:
            began = self._clock()
            kept = self._kept.get(key)
            if kept is not None and began < kept[1]:
                return kept[0]
            value = read()
            ended = self._clock()
            self._kept[key] = (value, ended + min(_REST * (ended - began), _LONGEST))
            return value
