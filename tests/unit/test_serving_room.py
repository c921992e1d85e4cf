"""A model server with less room than releases: the least recently asked go, and come when asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.errors import Unavailable
from flywheel.serving.engine import InProcess
from flywheel.serving.releases import ReleaseSet
from flywheel.serving.room import Occupant, Room


class Constant(InProcess):
    labels = ("a", "b")

    def __init__(self) -> None:
        self.closed = False

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [{"a": 0.75, "b": 0.25} for _ in texts]

    def close(self) -> None:
        self.closed = True


class Server:
    """Loads what it is asked to, and notes that."""

    def __init__(self, room: Room, sizes: dict[str, int] | None = None) -> None:
        self.loads: list[str] = []
        self.alive: dict[str, Constant] = {}
        self.most = 0
        sizes = sizes or {}
        self.releases = ReleaseSet(
            self.load, room=room, size=lambda release: sizes.get(release, 1), grace_seconds=0.1
        )

    def load(self, release: str) -> Constant:
        self.loads.append(release)
        self.alive[release] = Constant()
        return self.alive[release]

    def name(self, champion: str, challenger: str | None = None, task: str = "") -> None:
        share = 0.0 if challenger is None else 0.1
        split = TrafficSplit(
            task=task or champion,
            champion=champion,
            challenger=challenger,
            challenger_share=share,
        )
        self.releases.update(
            RolloutChanged(
                event_id=new_id(),
                occurred_at=utc_now(),
                task=split.task,
                rollout_id="r",
                state="serving" if challenger is None else "canary",
                split=split,
                decided_by="test",
                reason="",
            )
        )

    def states(self) -> dict[str, str]:
        return {one.release: one.state for one in self.releases.statuses()}

    async def ask(self, release: str) -> None:
        await self.releases.loaded(release, 30)
        with self.releases.using(release) as served:
            served.classify(["text"])  # type: ignore[union-attr]


@contextmanager
def serving(room: Room, *champions: str, sizes: dict[str, int] | None = None) -> Iterator[Server]:
    server = Server(room, sizes)
    for champion in champions:
        server.name(champion)
    server.releases.start()
    eventually(lambda: "loading" not in server.states().values())
    try:
        yield server
    finally:
        server.releases.stop()


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("room", "size", "going"),
    [
        (Room(), 10**12, []),
        (Room(releases=4), 1, []),
        (Room(releases=3), 1, ["b"]),
        (Room(releases=2), 1, ["b", "c"]),
        (Room(releases=1), 1, None),
        (Room(size=100), 40, []),
        (Room(size=100), 41, ["b"]),
        (Room(size=100), 90, ["b", "c"]),
        (Room(size=100), 91, None),
        (Room(releases=3, size=60), 40, ["b", "c"]),
    ],
)
def test_what_has_to_go_for_one_more(room: Room, size: int, going: list[str] | None) -> None:
    held = [
        Occupant("a", 10, 1.0, stays=True),
        Occupant("b", 20, 2.0, stays=False),
        Occupant("c", 30, 3.0, stays=False),
    ]
    assert room.to_unload(held, size) == going


async def test_the_least_recently_asked_goes_for_one_that_is_asked() -> None:
    with serving(Room(releases=2), "r1", "r2", "r3") as server:
        assert sorted(server.states().values()) == ["ready", "ready", "unloaded"]
        assert server.loads == ["r1", "r2"]
        assert server.releases.problem() is None, "all of them are answered"
        for release in ("r1", "r3", "r1", "r2", "r3"):
            await server.ask(release)
        assert server.loads == ["r1", "r2", "r3", "r2", "r3"]
        assert server.states() == {"r1": "unloaded", "r2": "ready", "r3": "ready"}
        unloaded = next(one for one in server.releases.statuses() if one.release == "r1")
        assert unloaded.reason


async def test_whoever_asks_at_the_same_time_is_answered_in_turn() -> None:
    """One that was loaded gives way only after those who waited for it have asked it."""
    with serving(Room(releases=1), "r1", "r2", "r3") as server:
        for _ in range(3):
            asked = [release for release in ("r1", "r2", "r3") for _ in range(3)]
            await asyncio.gather(*(server.ask(release) for release in asked))


async def test_who_does_not_wait_is_told_and_the_release_comes() -> None:
    with serving(Room(releases=1), "r1", "r2") as server:
        expected = pytest.raises(Unavailable, match="now that it is asked for")
        with expected, server.releases.using("r2"):
            pass
        await asyncio.to_thread(eventually, lambda: server.states()["r2"] == "ready")
        assert server.states()["r1"] == "unloaded"
        await asyncio.to_thread(eventually, lambda: server.alive["r1"].closed)


async def test_both_arms_of_a_rollout_stay_whoever_else_is_asked() -> None:
    with serving(Room(releases=2), "r1", "r2") as server:
        server.name("r3", "r4")
        await asyncio.to_thread(
            eventually,
            lambda: server.states()["r3"] == server.states()["r4"] == "ready",
        )
        assert server.states()["r1"] == server.states()["r2"] == "unloaded"
        with pytest.raises(Unavailable, match=r"no room for it: 2 releases.*rollouts"):
            await server.ask("r1")
        assert server.states()["r3"] == server.states()["r4"] == "ready"
        server.name("r4", task="r3")  # promoted
        await server.ask("r1")
        assert server.states()["r1"] == "ready"


async def test_a_limit_in_bytes_holds_of_sizes_that_are_known_once_it_is_loaded() -> None:
    sizes = {"r1": 60, "r2": 60, "r3": 30, "huge": 1000}
    with serving(Room(size=100), "r1", "r2", "r3", sizes=sizes) as server:
        assert server.states() == {"r1": "ready", "r2": "unloaded", "r3": "ready"}
        await server.ask("r2")
        assert server.states() == {"r1": "unloaded", "r2": "ready", "r3": "ready"}
        server.name("huge")
        await asyncio.to_thread(eventually, lambda: server.states()["huge"] == "unloaded")
        with pytest.raises(Unavailable, match=r"no room for it: .* GiB of files"):
            await server.ask("huge")
        assert server.states()["r2"] == "ready", "nothing went for it"
        assert server.loads.count("huge") <= 2
