"""What is known of sources, asked for once in a while: a store writes it no more often either."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from flywheel.triage.ports import SourceFeatures

REMEMBERED_SECONDS = 3.0
# Sources that are remembered at once.
MOST = 10_000

_Known = tuple[float, Mapping[str, float]]


class RecentFeatures:
    """Implements ``SourceFeatures``: asks another again when its answer is ``seconds`` old."""

    def __init__(
        self,
        features: SourceFeatures,
        seconds: float = REMEMBERED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._features, self._seconds, self._clock = features, seconds, clock
        self._known: dict[tuple[str, str], _Known] = {}

    def __call__(self, task: str, sources: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """See ``SourceFeatures``; raises what the other one raises, and remembers no failure."""
        now = self._clock()
        known = {source: found for source in sources if (found := self._fresh(task, source, now))}
        missing = [source for source in sources if source not in known]
        if missing:
            asked = self._features(task, missing)
            known |= {source: (now, asked.get(source, {})) for source in missing}
            if len(self._known) + len(missing) > MOST:
                self._known.clear()
            self._known |= {(task, source): known[source] for source in missing}
        return {source: features for source, (_, features) in known.items()}

    def _fresh(self, task: str, source: str, now: float) -> _Known | None:
        known = self._known.get((task, source))
        return known if known is not None and now - known[0] < self._seconds else None
