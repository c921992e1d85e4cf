"""The replicas of the model server: which one is asked next, and when one that hung is trusted
again."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from prometheus_client import Gauge

_log = structlog.get_logger(__name__)
_away = Gauge("flywheel_gateway_replicas_away", "Replicas that hung and have not come back.")

# Pauses before a replica that hung again, without an answer in between, is probed.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 15.0

Probe = Callable[[str, bytes | None], Awaitable[bool]]
"""Whether this URL answers anything at all when it is asked with this body (None: with GET). No
caller waits for it."""

HEALTH_PATH = "/healthz"


class Replica:
    """One address, and until when it is better left alone: for every release, or for one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.in_flight = 0
        self.skip_until = 0.0
        self.lacks: dict[str, float] = {}  # release → skip for it until
        self.hangs: dict[str, float] = {}  # release → the pause before its next probe
        self.probing: dict[str, asyncio.Task[None]] = {}

    def ready_at(self, release: str) -> float:
        """When it may be asked for a release, in seconds of time.monotonic()."""
        return max(self.skip_until, self.lacks.get(release, 0.0))

    def leave_alone(self, release: str, seconds: float, *, whole: bool) -> None:
        """Ask others for so long; ``whole``: for every release."""
        now = time.monotonic()
        if whole:
            self.skip_until = max(self.skip_until, now + seconds)
        else:
            self.lacks = {name: until for name, until in self.lacks.items() if until > now}
            self.lacks[release] = now + seconds

    def answered(self, release: str) -> None:
        """It answered a caller: it is well, and the next time it hangs weighs half as much."""
        if not self.hangs and not self.probing:
            return
        self.skip_until = 0.0
        self.lacks.pop(release, None)
        if release in self.probing:
            self.probing.pop(release).cancel()
        pause = self.hangs.pop(release, 0.0) / 2
        if pause >= FIRST_PAUSE_SECONDS:
            self.hangs[release] = pause


class Replicas:
    """All replicas. One that let a request run out of time gets no other of that release, nor of
    any if it answers nothing at all, until it has answered a probe; live requests are no probes,
    except where no replica is left. Lives in one event loop."""

    def __init__(self, urls: Sequence[str], probe: Probe) -> None:
        self._all = [Replica(url.rstrip("/")) for url in urls]
        self._probe = probe
        self._turn = 0
        _away.set_function(lambda: float(sum(bool(one.probing) for one in self._all)))

    def __len__(self) -> int:
        return len(self._all)

    def choose(self, release: str) -> Replica:
        """The one to ask: of those that are ready soonest the one with the fewest in flight."""
        now = time.monotonic()
        self._turn += 1
        count = len(self._all)
        return min(
            (self._all[(self._turn + i) % count] for i in range(count)),
            key=lambda one: (max(0.0, one.ready_at(release) - now), one.in_flight),
        )

    def hung(self, replica: Replica, release: str, path: str, body: bytes) -> None:
        """A request of ``release`` ran out of time at this replica: from now on, probe it with
        ``body``, which asks that release at ``path``."""
        if release in replica.probing:
            return
        replica.leave_alone(release, math.inf, whole=True)
        replica.leave_alone(release, math.inf, whole=False)
        probing = self._until_back(replica, release, replica.url + path, body)
        replica.probing[release] = asyncio.create_task(probing)
        _log.warning("a model server hangs", url=replica.url, release=release)

    async def close(self) -> None:
        """Probe no more."""
        tasks = [task for one in self._all for task in one.probing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_back(self, replica: Replica, release: str, url: str, body: bytes) -> None:
        # At once the first time: it may be well, and that one request have been too long.
        pause = replica.hangs.get(release, 0.0)
        try:
            while True:
                await asyncio.sleep(pause)
                pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
                replica.hangs[release] = pause
                if not await self._probe(replica.url + HEALTH_PATH, None):
                    continue
                replica.skip_until = 0.0
                if await self._probe(url, body):
                    break
            replica.lacks.pop(release, None)
            _log.info("a model server is back", url=replica.url, release=release)
        finally:
            if replica.probing.get(release) is asyncio.current_task():
                del replica.probing[release]
