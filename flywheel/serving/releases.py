"""The releases of one model server: loaded when a split names them and they fit, or when they are
asked for; dropped when no split does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import Histogram

from flywheel.contracts.events import RolloutChanged
from flywheel.monitoring.threads import LastingThread
from flywheel.serving.closing import Closing
from flywheel.serving.engine import Classifier, Generator, Loader
from flywheel.serving.held import ReleaseStatus, lost_loads, ready
from flywheel.serving.inventory import HANDED_OVER_SECONDS, LOOK_SECONDS, Dropped, Inventory
from flywheel.serving.room import Room

_log = structlog.get_logger(__name__)
_load_time = Histogram(
    "flywheel_serving_load_seconds",
    "Loading and warming up one release.",
    buckets=(0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 21, 34, 60, 120, 300),
)

WATCH_SECONDS = 0.5


class ReleaseSet:
    """Thread-safe. One thread loads and warms up, so that requests never wait for it; another
    watches what is loaded, and unloads.

    Start it once the rollout log is read to its end: what it named before is history. A release
    that no split names is kept for ``grace_seconds``, for requests still under way and for a
    rollback. A failed load is tried again, less and less often, and so is a release whose engine
    died. ``closed`` is told of every loaded release that has been closed.

    What does not fit in ``room`` is unloaded, least recently asked first, and loaded when it is
    asked for. What takes part in a rollout stays. ``size`` says how many bytes a release that is
    loaded counts for.
    """

    def __init__(
        self,
        load: Loader,
        *,
        closed: Callable[[str], None] = lambda _release: None,
        grace_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        room: Room | None = None,
        size: Callable[[str], int] = lambda _release: 0,
    ) -> None:
        self._load = load
        self._size = size
        self._closed = closed
        self._grace = grace_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._inventory = Inventory(room or Room(), clock)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._idle = threading.Condition(self._lock)
        self._threads = [
            LastingThread("releases", self._run),
            LastingThread("watch-releases", self._watch),
        ]
        self._closing = Closing(self._idle, closed)

    def start(self) -> None:
        """Load what the splits name, from now on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop and close everything; a load under way is finished first."""
        self._stopping.set()
        self._wake.set()
        for lasting in self._threads:
            lasting.join()
        with self._lock:
            lives = self._inventory.live()
            self._inventory.held.clear()
        for release, live in lives.items():
            self._closing.now(release, live)
        self._closing.wait()

    def keep(self, *releases: str) -> None:
        """Serve these, and treat them as champions, whatever the splits say."""
        with self._lock:
            self._inventory.wanted.keep(releases)
        self._wake.set()

    def update(self, event: RolloutChanged) -> None:
        """Take in one change of a split."""
        with self._lock:
            for release in self._inventory.wanted.change(event.task, event.split):
                held = self._inventory.held.get(release)
                if held is not None and held.status.state == "failed":
                    held.retry_at = 0.0
        self._wake.set()

    @contextmanager
    def using(self, release: str) -> Iterator[Classifier | Generator]:
        """A release that is ready, and that stays so until the block ends.

        Raises NotFound for one that no split names, Unavailable for one that is loading, that
        failed to load once or whose engine died, and ReleaseNotLoaded for one that will not load
        as things are; with the reason.
        """
        with self._lock:
            held = self._inventory.held.get(release)
            live = None if held is None else held.live
            if live is None:
                missing = self._inventory.absent(release)
                if release in self._inventory.wanted.asked:
                    self._wake.set()
                raise missing
            live.asked_at = self._clock()
            live.in_use += 1
        try:
            yield live.served
        finally:
            with self._lock:
                live.in_use -= 1
                if not live.in_use:
                    self._idle.notify_all()

    async def loaded(self, release: str, seconds: float) -> None:
        """Have a release loaded that is here and unloaded, and wait for it, for so long at most."""
        asked = self._inventory.wanted.asked
        with self._lock:
            held = self._inventory.held.get(release)
            if held is None or held.status.state != "unloaded":
                return
            asked.add(release)
        self._wake.set()
        for _ in range(int(seconds / LOOK_SECONDS)):
            if release not in asked:
                return
            await asyncio.sleep(LOOK_SECONDS)

    def statuses(self) -> list[ReleaseStatus]:
        """Every release that is here or should be, by id."""
        with self._lock:
            return self._inventory.statuses()

    def problem(self) -> str | None:
        """Why this server cannot answer for some champion (for /healthz), or None."""
        with self._lock:
            champions = self._inventory.wanted.champions()
        well = ("ready", "unloaded")
        missing = [s for s in self.statuses() if s.release in champions and s.state not in well]
        if not missing:
            return None
        return "; ".join(f"{s.release}: {s.reason or s.state}" for s in missing)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            with self._lock:
                release, dropped = self._inventory.next_to_load()
            self._close(dropped)
            if release is not None:
                self._load_one(release)
                continue
            asked = self._inventory.wanted.asked
            self._wake.wait(HANDED_OVER_SECONDS if asked else WATCH_SECONDS)

    def _watch(self) -> None:
        pause = min(WATCH_SECONDS, self._grace / 4) if self._grace else 0.05
        while not self._stopping.wait(pause):
            with self._lock:
                dropped = self._inventory.forget_unwanted(self._grace)
            self._close(dropped)
            self._find_dead()

    def _load_one(self, release: str) -> None:
        started = time.perf_counter()
        served: Classifier | Generator | None = None
        try:
            served = self._load(release)
            status = ready(release, served)
        except Exception as error:  # noqa: BLE001 - one bad release must not end the others' server
            if served is not None:
                served.close()
                self._closed(release)
            self._failed(release, f"{type(error).__name__}: {error}", lost_loads(error))
            return
        size = self._size(release)
        seconds = time.perf_counter() - started
        _load_time.observe(seconds)
        with self._lock:
            dropped = self._inventory.loaded(release, served, status, size)
        _log.info("release ready", release=release, seconds=round(seconds, 3))
        self._close(dropped)

    def _failed(self, release: str, reason: str, loads: int = 0) -> None:
        with self._lock:
            here = self._inventory.failed(release, reason, loads)
        if here:
            _log.error("release failed", release=release, reason=reason)

    def _find_dead(self) -> None:
        with self._lock:
            lives = self._inventory.live()
        for release, live in lives.items():
            reason = live.served.problem()
            if reason is None:
                continue
            with self._lock:
                if not self._inventory.died(release, live):
                    continue
            self._failed(release, reason)
            self._closing.later(release, live)
            self._wake.set()

    def _close(self, dropped: Dropped) -> None:
        for release, live in dropped:
            self._closing.later(release, live)
