"""The releases of one model server: loaded when a split names them, dropped when none does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog
from prometheus_client import Gauge, Histogram

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.split import TrafficSplit
from flywheel.errors import NotFound, Unavailable
from flywheel.serving.engine import Classifier, Loader

_log = structlog.get_logger(__name__)
_state = Gauge("flywheel_serving_release", "1 in the release's state.", ("release", "state"))
_load_time = Histogram(
    "flywheel_serving_load_seconds",
    "Loading and warming up one release.",
    buckets=(0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 21, 34, 60),
)

State = Literal["loading", "ready", "failed"]
STATES: tuple[State, ...] = ("loading", "ready", "failed")
WARM_UP_TEXT = "What does a first request find?"
LONGEST_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ReleaseStatus:
    """How one release is doing; ``reason`` says why it failed."""

    release: str
    state: State
    reason: str = ""
    labels: tuple[str, ...] = ()
    loaded_at: int = 0


@dataclass(slots=True)
class _Held:
    status: ReleaseStatus
    classifier: Classifier | None = None
    unwanted_since: float | None = None
    retry_at: float = 0.0
    retry_in: float = 2.0


class ReleaseSet:
    """Thread-safe. One thread loads, warms up and unloads, so that requests never wait for it.

    Start it once the rollout log is read to its end: what it named before is history. A release
    that no split names is kept for ``grace_seconds``, for requests still under way and for a
    rollback. A failed load is tried again, less and less often.
    """

    def __init__(
        self,
        load: Loader,
        *,
        grace_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._grace = grace_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._splits: dict[str, TrafficSplit] = {}
        self._held: dict[str, _Held] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="releases", daemon=True)

    def start(self) -> None:
        """Load what the splits name, from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; a load under way is finished first."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def update(self, event: RolloutChanged) -> None:
        """Take in one change of a split."""
        with self._lock:
            self._splits[event.task] = event.split
            for release in _named(event.split):
                held = self._held.get(release)
                if held is not None and held.status.state == "failed":
                    held.retry_at = 0.0
        self._wake.set()

    def get(self, release: str) -> Classifier:
        """A release that is ready.

        Raises NotFound for one that no split names and Unavailable for one that is loading or
        that failed to load, with the reason.
        """
        held = self._held.get(release)
        if held is not None and held.classifier is not None:
            return held.classifier
        with self._lock:
            wanted = release in self._wanted()
            known = sorted(r for r, h in self._held.items() if h.classifier is not None)
        if held is not None and held.status.state == "failed":
            raise Unavailable(f"{release} failed to load: {held.status.reason}", retry_after=5.0)
        if wanted or held is not None:
            raise Unavailable(f"{release} is loading")
        raise NotFound(f"no release {release!r} here; ready: {', '.join(known) or 'none'}")

    def statuses(self) -> list[ReleaseStatus]:
        """Every release that is here or should be, by id."""
        with self._lock:
            found = {release: held.status for release, held in self._held.items()}
            for release in self._wanted():
                found.setdefault(release, ReleaseStatus(release, "loading"))
        return [found[release] for release in sorted(found)]

    def problem(self) -> str | None:
        """Why this server cannot answer for some champion (for /healthz), or None."""
        with self._lock:
            champions = {split.champion for split in self._splits.values()}
        missing = [s for s in self.statuses() if s.release in champions and s.state != "ready"]
        if not missing:
            return None
        return "; ".join(f"{s.release}: {s.reason or s.state}" for s in missing)

    def _wanted(self) -> set[str]:
        return {release for split in self._splits.values() for release in _named(split)}

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            release = self._next_to_load()
            if release is not None:
                self._load_one(release)
                continue
            self._unload()
            self._wake.wait(min(1.0, self._grace / 4) if self._grace else 0.05)

    def _next_to_load(self) -> str | None:
        now = self._clock()
        with self._lock:
            champions = {split.champion for split in self._splits.values()}
            # Champions first: they answer everybody.
            for release in sorted(self._wanted(), key=lambda r: (r not in champions, r)):
                held = self._held.get(release)
                if held is None:
                    self._held[release] = _Held(ReleaseStatus(release, "loading"))
                    self._show(release, "loading")
                    return release
                if held.status.state == "failed" and now >= held.retry_at:
                    return release
        return None

    def _load_one(self, release: str) -> None:
        started = time.perf_counter()
        try:
            classifier = self._load(release)
            labels = tuple(classifier.labels)
            classifier.predict([WARM_UP_TEXT])
        except Exception as error:  # noqa: BLE001 - one bad release must not end the others' server
            self._failed(release, f"{type(error).__name__}: {error}")
            return
        seconds = time.perf_counter() - started
        _load_time.observe(seconds)
        status = ReleaseStatus(release, "ready", labels=labels, loaded_at=int(time.time()))
        with self._lock:
            self._held[release] = _Held(status, classifier)
            self._show(release, "ready")
        _log.info("release ready", release=release, seconds=round(seconds, 3))

    def _failed(self, release: str, reason: str) -> None:
        with self._lock:
            held = self._held[release]
            held.status = ReleaseStatus(release, "failed", reason)
            held.retry_at = self._clock() + held.retry_in
            held.retry_in = min(held.retry_in * 2, LONGEST_RETRY_SECONDS)
            self._show(release, "failed")
        _log.error("release failed to load", release=release, reason=reason)

    def _unload(self) -> None:
        now = self._clock()
        with self._lock:
            wanted = self._wanted()
            for release, held in list(self._held.items()):
                if release in wanted:
                    held.unwanted_since = None
                elif held.unwanted_since is None:
                    held.unwanted_since = now
                elif now - held.unwanted_since >= self._grace:
                    del self._held[release]
                    self._show(release, None)
                    _log.info("release unloaded", release=release)

    @staticmethod
    def _show(release: str, state: State | None) -> None:
        for name in STATES:
            if state is None:
                _state.remove(release, name)
            else:
                _state.labels(release, name).set(name == state)


def _named(split: TrafficSplit) -> set[str]:
    return {split.champion} | ({split.challenger} if split.challenger else set())
