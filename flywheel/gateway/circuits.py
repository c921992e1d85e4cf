"""Releases that let requests run out of time on every model server: who stands in is asked at once,
until a trial says that the release is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter, Gauge

from flywheel.contracts.model_server import Call
from flywheel.errors import Unavailable

_log = structlog.get_logger(__name__)
_open = Gauge(
    "flywheel_gateway_releases_passed_over",
    "Releases that answer nothing in time, and are not waited for.",
)
_passed = Counter(
    "flywheel_gateway_passed_over_total", "Requests whose release was not waited for."
)

# Requests in a row that ran out of time before the next is not made to wait as well.
OPEN_AFTER = 3
# Pauses between trials, which no caller waits for.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
# A release that no request has asked for this long gets no trial until the next does.
IDLE_SECONDS = 60.0

Trial = Callable[[Call, str], Awaitable[bool]]
"""Whether a release need not be passed over any longer, by one request with a text of our own."""


class PassedOver(Unavailable):
    """The release was not asked: it let the requests before run out of time."""


class Circuits:
    """One circuit a release, for both arms alike. Lives in one event loop.

    What is passed over is the release's failure like what ran out of time before: nobody but the
    release is to blame for either.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._in_a_row: dict[str, int] = {}
        self._opened: dict[str, _Opened] = {}
        _open.set_function(lambda: float(sum(not one.idle() for one in self._opened.values())))

    def require_closed(self, release: str) -> None:
        """Raises PassedOver while the release is not waited for."""
        opened = self._opened.get(release)
        if opened is None:
            return
        opened.asked()
        _passed.inc()
        raise PassedOver(
            f"{release} was not asked: the {OPEN_AFTER} requests before ran out of time, the last "
            f"one as {opened.why}"
        )

    def answered(self, release: str) -> None:
        """It answered a request in time."""
        self._in_a_row.pop(release, None)
        opened = self._opened.pop(release, None)
        if opened is not None:
            opened.task.cancel()

    def ran_out(self, call: Call, release: str, why: str) -> None:
        """A request of this release had no answer in all its time."""
        count = self._in_a_row[release] = self._in_a_row.get(release, 0) + 1
        if count >= OPEN_AFTER and release not in self._opened:
            _log.warning("a release is passed over", release=release, reason=why)
            self._opened[release] = _Opened(
                why, asyncio.create_task(self._until_back(call, release))
            )

    async def close(self) -> None:
        """Try no more."""
        tasks = [opened.task for opened in self._opened.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_back(self, call: Call, release: str) -> None:
        # At once the first time: the requests may have been too long, and the release be well.
        pause = FIRST_PAUSE_SECONDS
        while not await self._trial(call, release):
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            await self._opened[release].wanted()
        _log.info("a release is asked again", release=release)
        self._in_a_row.pop(release, None)
        del self._opened[release]


class _Opened:
    """A release that is passed over: why, and who tries it."""

    def __init__(self, why: str, task: asyncio.Task[None]) -> None:
        self.why, self.task = why, task
        self._asked_at = time.monotonic()
        self._wake = asyncio.Event()

    def asked(self) -> None:
        """A request would have had it answer."""
        self._asked_at = time.monotonic()
        self._wake.set()

    def idle(self) -> bool:
        """Whether nobody has wanted it lately, as when its rollout has ended."""
        return time.monotonic() - self._asked_at > IDLE_SECONDS

    async def wanted(self) -> None:
        """Return once somebody wants it."""
        self._wake.clear()
        if self.idle():
            await self._wake.wait()
