"""Guessing keys made slow, without shutting out who holds the right one."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from flywheel.errors import TooManyRequests
from flywheel.monitoring.bearer import AcceptedKeys, digest

_REMEMBERED = 10_000
Key = TypeVar("Key")
Value = TypeVar("Value")


class SignIns:
    """Checks keys: each peer may be wrong ``of_peer`` times at once and then every
    ``peer_seconds``; all peers together ``of_all`` times and then every ``all_seconds``.

    What may not be wrong any more is not checked either, whatever the key: else the answer would
    tell. But a peer that was never wrong is checked always, whoever guesses elsewhere, and so is a
    key that was right from this peer before: programs that work go on working.
    """

    def __init__(
        self,
        keys: AcceptedKeys,
        *,
        of_peer: int = 10,
        peer_seconds: float = 6.0,
        of_all: int = 100,
        all_seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._of_peer, self._peer_seconds = of_peer, peer_seconds
        self._all = _Wrong(of_all, all_seconds)
        self._clock = clock
        self._peers: OrderedDict[str, _Wrong] = OrderedDict()
        self._right: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def accept(self, peer: str, key: str) -> bool:
        """Whether ``key`` is right. Raises TooManyRequests when it may not be checked yet."""
        wrong = self._peers.get(peer)
        now = self._clock()
        if wrong is not None and (peer, digest(key)) not in self._right:
            wait = max(wrong.wait(now), self._all.wait(now))
            if wait > 0:
                raise TooManyRequests("too many wrong keys; wait before the next one", wait)
        if self._keys.accept(key):
            _remember(self._right, (peer, digest(key)), None)
            return True
        wrong = wrong or _Wrong(self._of_peer, self._peer_seconds)
        wrong.add(now)
        self._all.add(now)
        _remember(self._peers, peer, wrong)
        return False


class _Wrong:
    """Wrong keys of late: how long until there may be another."""

    def __init__(self, at_once: int, seconds: float) -> None:
        self._at_once = at_once
        self._seconds = seconds
        self._count = 0.0
        self._at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until another one may come; 0 for at once."""
        return max(0.0, (self._left(now) + 1.0 - self._at_once) * self._seconds)

    def add(self, now: float) -> None:
        """Another one came."""
        self._count, self._at = self._left(now) + 1.0, now

    def _left(self, now: float) -> float:
        return max(0.0, self._count - (now - self._at) / self._seconds)


def _remember(kept: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)
