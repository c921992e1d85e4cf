"""Token buckets per source, and the size of what one request may bring."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from flywheel.errors import TooManyRequests


class SourceLimits:
    """At most ``per_second`` requests per source over time, and ``burst`` at once."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        max_sources: int = 10_000,
    ) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._max_sources = max_sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, source: str) -> None:
        """Use up one request of ``source``. Raises TooManyRequests when none is left."""
        now = self._clock()
        tokens, before = self._buckets.pop(source, (self._burst, now))
        tokens = min(self._burst, tokens + (now - before) * self._per_second)
        allowed = tokens >= 1.0
        self._buckets[source] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > self._max_sources:
            self._buckets.popitem(last=False)
        if not allowed:
            raise TooManyRequests(
                f"more than {self._per_second:g} requests per second from this source",
                retry_after=(1.0 - tokens) / self._per_second,
            )
