"""The releases of one model server: loaded when a split names them and they fit, or when they are
asked for; dropped when no split does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import Counter, Histogram

from flywheel.contracts.events import RolloutChanged
from flywheel.errors import NotFound, ReleaseNotLoaded, Unavailable
from flywheel.monitoring.threads import LastingThread
from flywheel.serving.closing import Closing
from flywheel.serving.engine import Classifier, Generator, Loader
from flywheel.serving.held import (
    FIRST_RETRY_SECONDS,
    HOPELESS_AFTER,
    Held,
    Live,
    ReleaseStatus,
    State,
    lost_loads,
    ready,
    show,
)
from flywheel.serving.room import Occupant, Room
from flywheel.serving.wanted import Wanted

_log = structlog.get_logger(__name__)
_unloads = Counter(
    "flywheel_serving_unloads_total", "Releases unloaded for others that were asked for."
)
_load_time = Histogram(
    "flywheel_serving_load_seconds",
    "Loading and warming up one release.",
    buckets=(0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 21, 34, 60, 120, 300),
)

WATCH_SECONDS = 0.5
_LOOK_SECONDS = 0.02
# What was loaded for somebody who waits stays for so long: they look a few times meanwhile.
_HANDED_OVER_SECONDS = 5 * _LOOK_SECONDS


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
        self._room = room or Room()
        self._size = size
        self._sizes: dict[str, int] = {}
        self._closed = closed
        self._grace = grace_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._wanted = Wanted()
        self._held: dict[str, Held] = {}
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
            held, self._held = self._held, {}
        for release, one in held.items():
            if one.live is not None:
                self._closing.now(release, one.live)
        self._closing.wait()

    def keep(self, *releases: str) -> None:
        """Serve these, and treat them as champions, whatever the splits say."""
        with self._lock:
            self._wanted.keep(releases)
        self._wake.set()

    def update(self, event: RolloutChanged) -> None:
        """Take in one change of a split."""
        with self._lock:
            for release in self._wanted.change(event.task, event.split):
                held = self._held.get(release)
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
            held = self._held.get(release)
            live = None if held is None else held.live
            if live is None:
                raise self._absent(release, held)
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
        with self._lock:
            held = self._held.get(release)
            if held is None or held.status.state != "unloaded":
                return
            self._wanted.asked.add(release)
        self._wake.set()
        for _ in range(int(seconds / _LOOK_SECONDS)):
            if release not in self._wanted.asked:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _absent(self, release: str, held: Held | None) -> NotFound | Unavailable:
        if held is not None and held.status.state == "failed":
            said = f"{release} failed to load: {held.status.reason}"
            if held.failed_loads >= HOPELESS_AFTER:
                again = held.retry_at - self._clock()
                return ReleaseNotLoaded(said, retry_after=max(FIRST_RETRY_SECONDS, again))
            return Unavailable(said, retry_after=5.0)
        if held is not None and held.status.state == "unloaded":
            self._wanted.asked.add(release)
            self._wake.set()
            return Unavailable(
                f"{release} is not loaded: {held.status.reason}. It is tried, now that it "
                "is asked for"
            )
        if held is not None or release in self._wanted.all():
            return Unavailable(f"{release} is loading")
        known = sorted(name for name, other in self._held.items() if other.live is not None)
        return NotFound(f"no release {release!r} here; ready: {', '.join(known) or 'none'}")

    def statuses(self) -> list[ReleaseStatus]:
        """Every release that is here or should be, by id."""
        with self._lock:
            statuses = {release: held.status for release, held in self._held.items()}
            for release in self._wanted.all():
                statuses.setdefault(release, ReleaseStatus(release, "loading"))
        return [statuses[release] for release in sorted(statuses)]

    def problem(self) -> str | None:
        """Why this server cannot answer for some champion (for /healthz), or None."""
        with self._lock:
            champions = self._wanted.champions()
        well = ("ready", "unloaded")
        missing = [s for s in self.statuses() if s.release in champions and s.state not in well]
        if not missing:
            return None
        return "; ".join(f"{s.release}: {s.reason or s.state}" for s in missing)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            release = self._next_to_load()
            if release is not None:
                self._load_one(release)
                continue
            self._wake.wait(_HANDED_OVER_SECONDS if self._wanted.asked else WATCH_SECONDS)

    def _watch(self) -> None:
        pause = min(WATCH_SECONDS, self._grace / 4) if self._grace else 0.05
        while not self._stopping.wait(pause):
            self._unload()
            self._find_dead()

    def _next_to_load(self) -> str | None:
        now = self._clock()
        dropped: list[tuple[str, Live]] = []
        chosen = None
        with self._lock:
            for release, urgent in self._wanted.by_urgency():
                held = self._held.get(release)
                if held is not None and not held.is_due(now, urgent=urgent):
                    continue
                size = self._sizes.get(release, 0)
                going = self._room.to_unload(self._occupants(), size)
                if urgent and self._room.to_unload(self._occupants(now), size) != going:
                    continue  # what would go was loaded for others, who are about to ask it
                if going is None or (going and not urgent):
                    self._leave_out(release, urgent)
                    continue
                dropped = [(name, live) for name in going if (live := self._drop(name))]
                self._held.setdefault(release, Held(ReleaseStatus(release, "loading")))
                if held is None or held.status.state == "unloaded":
                    self._held[release].status = ReleaseStatus(release, "loading")
                    show(release, "loading")
                chosen = release
                break
        for name, live in dropped:
            self._closing.later(name, live)
        return chosen

    def _occupants(self, now: float | None = None) -> list[Occupant]:
        """What is loaded. With ``now``, what was just loaded for somebody who waits stays too."""
        needed = self._wanted.needed()
        return [
            Occupant(
                name,
                held.live.size,
                held.live.asked_at,
                name in needed or (now is not None and now < held.live.kept_until),
            )
            for name, held in self._held.items()
            if held.live is not None
        ]

    def _leave_out(self, release: str, urgent: bool) -> None:
        """There is no room for it: said, and no fault unless it is needed now."""
        self._wanted.asked.discard(release)
        full = f"there is no room for it: {self._room} are held at most"
        status = ReleaseStatus(release, "unloaded", full)
        if urgent:
            full += "; what is loaded takes part in rollouts, or it is larger than that by itself"
            # A rollout waits for it; everyone else may ask again.
            state: State = "failed" if release in self._wanted.needed() else "unloaded"
            status = ReleaseStatus(release, state, full)
        held = self._held.setdefault(release, Held(status))
        held.status, held.retry_at = status, self._clock() + FIRST_RETRY_SECONDS
        show(release, held.status.state)

    def _drop(self, release: str) -> Live | None:
        """Unload it; what answers is still to be closed."""
        held = self._held[release]
        live, held.live = held.live, None
        held.status = ReleaseStatus(release, "unloaded", "others were asked for since")
        show(release, "unloaded")
        _unloads.inc()
        _log.info("release unloaded for others", release=release)
        return live

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
        size = self._sizes[release] = self._size(release)
        seconds = time.perf_counter() - started
        _load_time.observe(seconds)
        with self._lock:
            held = self._held.setdefault(release, Held(status))
            now = self._clock()
            live = Live(served, now, size)
            if release in self._wanted.asked:
                live.asked_at, live.kept_until = now, now + _HANDED_OVER_SECONDS
            held.loaded(status, live)
            self._wanted.asked.discard(release)
            show(release, "ready")
            dropped = self._over(release)
        _log.info("release ready", release=release, seconds=round(seconds, 3))
        for name, live in dropped:
            self._closing.later(name, live)

    def _over(self, release: str) -> list[tuple[str, Live]]:
        """Unload what has to go, now that it is known how large a release is: itself, where it does
        not fit or others would have to go that nobody asked to."""
        others = [one for one in self._occupants() if one.release != release]
        going = self._room.to_unload(others, self._sizes[release])
        live = self._held[release].live
        urgent = release in self._wanted.needed() or (live is not None and live.asked_at > 0.0)
        if going is None or (going and not urgent):
            dropped = self._drop(release)
            self._leave_out(release, urgent)
            return [(release, dropped)] if dropped is not None else []
        return [(name, live) for name in going if (live := self._drop(name))]

    def _failed(self, release: str, reason: str, loads: int = 0) -> None:
        """``loads`` that failed with it, as far as hope goes; none where an engine died."""
        with self._lock:
            held = self._held.get(release)
            if held is None:
                return
            self._wanted.asked.discard(release)
            held.failed(reason, loads, self._clock())
            show(release, "failed")
        _log.error("release failed", release=release, reason=reason)

    def _find_dead(self) -> None:
        with self._lock:
            lives = {name: held.live for name, held in self._held.items() if held.live}
        for release, live in lives.items():
            reason = live.served.problem()
            if reason is None:
                continue
            with self._lock:
                held = self._held.get(release)
                if held is None or held.live is not live:
                    continue
                held.died(self._clock())
            self._failed(release, reason)
            self._closing.later(release, live)
            self._wake.set()

    def _unload(self) -> None:
        now = self._clock()
        dropped: list[tuple[str, Live]] = []
        with self._lock:
            wanted = self._wanted.all()
            for release, held in list(self._held.items()):
                if release in wanted:
                    held.unwanted_since = None
                elif held.unwanted_since is None:
                    held.unwanted_since = now
                elif now - held.unwanted_since >= self._grace and held.status.state != "loading":
                    del self._held[release]
                    show(release, None)
                    if held.live is not None:
                        dropped.append((release, held.live))
                    _log.info("release unloaded", release=release)
        for release, live in dropped:
            self._closing.later(release, live)
