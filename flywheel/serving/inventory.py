"""What a model server holds and should hold: what is loaded next, and what makes room for it."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from prometheus_client import Counter

from flywheel.errors import NotFound, ReleaseNotLoaded, Unavailable
from flywheel.serving.engine import Classifier, Generator
from flywheel.serving.held import (
    FIRST_RETRY_SECONDS,
    HOPELESS_AFTER,
    Held,
    Live,
    ReleaseStatus,
    State,
    show,
)
from flywheel.serving.room import Occupant, Room
from flywheel.serving.wanted import Wanted

_log = structlog.get_logger(__name__)
_unloads = Counter(
    "flywheel_serving_unloads_total", "Releases unloaded for others that were asked for."
)

LOOK_SECONDS = 0.02
# What was loaded for somebody who waits stays for so long: they look a few times meanwhile.
HANDED_OVER_SECONDS = 5 * LOOK_SECONDS
Dropped = list[tuple[str, Live]]


class Inventory:
    """Not thread-safe: whoever has it guards it. It loads and closes nothing itself: it says what
    to load, and what answered until now and is to be closed (``Dropped``)."""

    def __init__(self, room: Room, clock: Callable[[], float]) -> None:
        self.wanted = Wanted()
        self.held: dict[str, Held] = {}
        self._room, self._clock = room, clock
        self._sizes: dict[str, int] = {}

    def live(self) -> dict[str, Live]:
        """What answers."""
        return {name: held.live for name, held in self.held.items() if held.live is not None}

    def statuses(self) -> list[ReleaseStatus]:
        """Every release that is here or should be, by id."""
        statuses = {release: held.status for release, held in self.held.items()}
        for release in self.wanted.all():
            statuses.setdefault(release, ReleaseStatus(release, "loading"))
        return [statuses[release] for release in sorted(statuses)]

    def absent(self, release: str) -> NotFound | Unavailable:
        """Why a release does not answer. One that is unloaded is asked for with it."""
        held = self.held.get(release)
        if held is not None and held.status.state == "failed":
            said = f"{release} failed to load: {held.status.reason}"
            if held.failed_loads >= HOPELESS_AFTER:
                again = held.retry_at - self._clock()
                return ReleaseNotLoaded(said, retry_after=max(FIRST_RETRY_SECONDS, again))
            return Unavailable(said, retry_after=5.0)
        if held is not None and held.status.state == "unloaded":
            self.wanted.asked.add(release)
            return Unavailable(
                f"{release} is not loaded: {held.status.reason}. It is tried, now that it "
                "is asked for"
            )
        if held is not None or release in self.wanted.all():
            return Unavailable(f"{release} is loading")
        known = ", ".join(sorted(self.live())) or "none"
        return NotFound(f"no release {release!r} here; ready: {known}")

    def next_to_load(self) -> tuple[str | None, Dropped]:
        """What is to be loaded now, if anything, and what made room for it."""
        now = self._clock()
        for release, urgent in self.wanted.by_urgency():
            held = self.held.get(release)
            if held is not None and not held.is_due(now, urgent=urgent):
                continue
            size = self._sizes.get(release, 0)
            going = self._room.to_unload(self._occupants(), size)
            if urgent and self._room.to_unload(self._occupants(now), size) != going:
                continue  # what would go was loaded for others, who are about to ask it
            if going is None or (going and not urgent):
                self._leave_out(release, urgent)
                continue
            dropped = self._drop_all(going)
            self.held.setdefault(release, Held(ReleaseStatus(release, "loading")))
            if held is None or held.status.state == "unloaded":
                self.held[release].status = ReleaseStatus(release, "loading")
                show(release, "loading")
            return release, dropped
        return None, []

    def loaded(
        self, release: str, served: Classifier | Generator, status: ReleaseStatus, size: int
    ) -> Dropped:
        """It answers from now on, and counts for so many bytes: what has to go for that, itself
        where it does not fit or others would have to go that nobody asked to."""
        self._sizes[release] = size
        held = self.held.setdefault(release, Held(status))
        now = self._clock()
        live = Live(served, now, size)
        if release in self.wanted.asked:
            live.asked_at, live.kept_until = now, now + HANDED_OVER_SECONDS
        held.loaded(status, live)
        self.wanted.asked.discard(release)
        show(release, "ready")
        others = [one for one in self._occupants() if one.release != release]
        going = self._room.to_unload(others, size)
        urgent = release in self.wanted.needed() or live.asked_at > 0.0
        if going is None or (going and not urgent):
            dropped = self._drop_all([release])
            self._leave_out(release, urgent)
            return dropped
        return self._drop_all(going)

    def failed(self, release: str, reason: str, loads: int) -> bool:
        """``loads`` of it failed, as far as hope goes; none where an engine died. Whether it is
        still here."""
        held = self.held.get(release)
        if held is None:
            return False
        self.wanted.asked.discard(release)
        held.failed(reason, loads, self._clock())
        show(release, "failed")
        return True

    def died(self, release: str, live: Live) -> bool:
        """What answered does so no more. Whether it was that which is here."""
        held = self.held.get(release)
        if held is None or held.live is not live:
            return False
        held.died(self._clock())
        return True

    def forget_unwanted(self, grace: float) -> Dropped:
        """Drop what no split has named for ``grace`` seconds."""
        now, wanted = self._clock(), self.wanted.all()
        dropped: Dropped = []
        for release, held in list(self.held.items()):
            if release in wanted:
                held.unwanted_since = None
            elif held.unwanted_since is None:
                held.unwanted_since = now
            elif now - held.unwanted_since >= grace and held.status.state != "loading":
                del self.held[release]
                show(release, None)
                if held.live is not None:
                    dropped.append((release, held.live))
                _log.info("release unloaded", release=release)
        return dropped

    def _occupants(self, now: float | None = None) -> list[Occupant]:
        """What is loaded. With ``now``, what was just loaded for somebody who waits stays too."""
        needed = self.wanted.needed()
        return [
            Occupant(
                name,
                live.size,
                live.asked_at,
                name in needed or (now is not None and now < live.kept_until),
            )
            for name, live in self.live().items()
        ]

    def _leave_out(self, release: str, urgent: bool) -> None:
        """There is no room for it: said, and no fault unless it is needed now."""
        self.wanted.asked.discard(release)
        full = f"there is no room for it: {self._room} are held at most"
        status = ReleaseStatus(release, "unloaded", full)
        if urgent:
            full += "; what is loaded takes part in rollouts, or it is larger than that by itself"
            # A rollout waits for it; everyone else may ask again.
            state: State = "failed" if release in self.wanted.needed() else "unloaded"
            status = ReleaseStatus(release, state, full)
        held = self.held.setdefault(release, Held(status))
        held.status, held.retry_at = status, self._clock() + FIRST_RETRY_SECONDS
        show(release, held.status.state)

    def _drop_all(self, releases: list[str]) -> Dropped:
        """Unload them; what answers is still to be closed."""
        dropped: Dropped = []
        for release in releases:
            held = self.held[release]
            live, held.live = held.live, None
            held.status = ReleaseStatus(release, "unloaded", "others were asked for since")
            show(release, "unloaded")
            _unloads.inc()
            _log.info("release unloaded for others", release=release)
            if live is not None:
                dropped.append((release, live))
        return dropped
