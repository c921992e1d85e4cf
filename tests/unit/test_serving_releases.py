"""What a model server holds: dying engines, draining, closing, generators; batches in flight."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.errors import ArtefactError, NotFound, TooManyRequests, Unavailable
from flywheel.serving.batching import Batcher
from flywheel.serving.engine import Classified, Classifier, Generated, Generator, InProcess
from flywheel.serving.releases import ReleaseSet


class Remote:
    """A release in another process, which may die; notes how it is asked and closed."""

    labels = ("a", "b")

    def __init__(self, parallel: int = 4, batch: int = 0) -> None:
        self.parallel, self.batch = parallel, batch
        self.dead: str | None = None
        self.closed = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.asked: list[int] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def classify(self, texts: Sequence[str]) -> list[Classified]:
        with self._lock:
            self.asked.append(len(texts))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.go.wait(30)
        with self._lock:
            self.at_once -= 1
        if self.dead:
            raise Unavailable(self.dead)
        return [Classified(scores={"a": 0.75, "b": 0.25}) for _ in texts]

    def problem(self) -> str | None:
        return self.dead

    def close(self) -> None:
        self.closed.set()


class Writer(InProcess):
    labels = ()

    def generate(self, texts: Sequence[str]) -> list[Generated]:
        return [Generated(text=t[::-1], confidence=0.5, tokens_in=2, tokens_out=1) for t in texts]


def split(champion: str) -> RolloutChanged:
    return RolloutChanged(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="t",
        rollout_id="r",
        state="serving",
        split=TrafficSplit(task="t", champion=champion),
        decided_by="test",
        reason="",
    )


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def running(
    load: Callable[[str], Classifier | Generator], grace_seconds: float = 60.0
) -> Iterator[ReleaseSet]:
    releases = ReleaseSet(load, grace_seconds=grace_seconds)
    releases.start()
    try:
        yield releases
    finally:
        releases.stop()


def state(releases: ReleaseSet, release: str) -> str:
    return next((s.state for s in releases.statuses() if s.release == release), "gone")


def test_what_is_kept_is_served_without_a_split_and_closed_at_the_end() -> None:
    remote = Remote()
    with running(lambda _: remote) as releases:
        releases.keep("r1")
        eventually(lambda: state(releases, "r1") == "ready")
        assert releases.problem() is None
        with releases.using("r1") as served:
            assert served is remote
        with pytest.raises(NotFound, match="ready: r1"), releases.using("r2"):
            pass
        assert not remote.closed.is_set()
    assert remote.closed.is_set()


def test_a_dead_engine_is_failed_closed_and_loaded_again() -> None:
    loaded: list[Remote] = []

    def load(_release: str) -> Remote:
        loaded.append(Remote())
        return loaded[-1]

    with running(load) as releases:
        releases.update(split("r1"))
        eventually(lambda: state(releases, "r1") == "ready")
        loaded[0].dead = "its process ended with signal SIGKILL"
        eventually(lambda: state(releases, "r1") == "failed")
        assert "SIGKILL" in (releases.problem() or "")
        with pytest.raises(Unavailable, match="SIGKILL") as refused, releases.using("r1"):
            pass
        assert refused.value.retry_after > 0
        assert loaded[0].closed.wait(30)
        releases.update(split("r1"))
        eventually(lambda: state(releases, "r1") == "ready")
        assert len(loaded) == 2


def test_a_release_is_closed_only_when_its_requests_are_answered() -> None:
    remotes = {"r1": Remote(), "r2": Remote()}
    with running(lambda release: remotes[release], grace_seconds=0.0) as releases:
        releases.update(split("r1"))
        eventually(lambda: state(releases, "r1") == "ready")
        with releases.using("r1"):
            releases.update(split("r2"))
            eventually(lambda: state(releases, "r1") == "gone")
            with pytest.raises(NotFound), releases.using("r1"):
                pass
            assert not remotes["r1"].closed.wait(0.2)
        assert remotes["r1"].closed.wait(30)
        assert not remotes["r2"].closed.is_set()


def test_one_that_fails_its_warm_up_is_closed() -> None:
    remote = Remote()
    remote.dead = "out of memory"
    with running(lambda _: remote) as releases:
        releases.keep("r1")
        eventually(lambda: state(releases, "r1") == "failed")
        assert remote.closed.is_set()
        assert "out of memory" in (releases.problem() or "")


def test_a_load_that_fails_says_why() -> None:
    def load(_release: str) -> Remote:
        raise ArtefactError("model.safetensors is truncated")

    with running(load) as releases:
        releases.keep("r1")
        eventually(lambda: state(releases, "r1") == "failed")
        assert releases.statuses()[0].reason == "ArtefactError: model.safetensors is truncated"


def test_a_generator_says_what_it_is() -> None:
    with running(lambda _: Writer()) as releases:
        releases.keep("r1")
        eventually(lambda: state(releases, "r1") == "ready")
        assert releases.statuses()[0].kind == "generator"


async def test_a_remote_release_is_asked_several_times_at_once_and_no_more() -> None:
    remote = Remote(parallel=3, batch=1)
    remote.go.clear()
    batcher = Batcher(max_batch=16, max_wait_ms=0, queue_size=100)
    asked = [asyncio.create_task(batcher.classify(remote, [f"t{n}"])) for n in range(7)]
    await asyncio.to_thread(eventually, lambda: remote.at_once == 3)
    assert batcher.waiting >= 3
    remote.go.set()
    assert [row[0].scores["a"] for row in await asyncio.gather(*asked)] == [0.75] * 7
    assert remote.most_at_once == 3
    assert remote.asked == [1] * 7
    assert batcher.waiting == 0
    await batcher.stop()


async def test_what_computes_here_is_asked_one_batch_at_a_time() -> None:
    local = [Remote(parallel=1), Remote(parallel=1)]
    batcher = Batcher(max_batch=4, max_wait_ms=0, queue_size=100)
    await asyncio.gather(*(batcher.classify(local[n % 2], [f"t{n}"] * 3) for n in range(8)))
    assert [one.most_at_once for one in local] == [1, 1]
    await batcher.stop()


async def test_an_engine_that_is_away_is_not_asked_again_for_each_text() -> None:
    remote = Remote(parallel=2)
    remote.go.clear()
    batcher = Batcher(max_batch=8, max_wait_ms=0, queue_size=100)
    first = []
    for count in (1, 2):
        first.append(asyncio.create_task(batcher.classify(remote, ["x"])))
        await asyncio.to_thread(eventually, lambda count=count: remote.at_once == count)
    rest = [asyncio.create_task(batcher.classify(remote, ["y"])) for _ in range(5)]
    await asyncio.sleep(0)
    remote.dead = "gone"
    remote.go.set()
    answers = await asyncio.gather(*first, *rest, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert remote.asked == [1, 1, 5]
    await batcher.stop()


async def test_who_waited_too_long_is_refused_and_what_has_begun_is_finished() -> None:
    remote = Remote(parallel=2, batch=1)
    remote.go.clear()
    batcher = Batcher(max_batch=1, max_wait_ms=0, queue_size=100, max_queue_seconds=0.05)
    begun = asyncio.create_task(batcher.classify(remote, ["a", "b", "c", "d"]))
    await asyncio.to_thread(eventually, lambda: remote.at_once == 2)
    late = [asyncio.create_task(batcher.classify(remote, ["x"])) for _ in range(3)]
    await asyncio.sleep(0.2)
    remote.go.set()
    refused = await asyncio.gather(*late, return_exceptions=True)
    assert all(isinstance(one, TooManyRequests) for one in refused)
    assert len(await begun) == 4
    assert remote.asked == [1] * 4
    assert len(await batcher.classify(remote, ["later"])) == 1
    await batcher.stop()


async def test_generated_texts_come_back_in_order() -> None:
    batcher = Batcher(max_batch=2, max_wait_ms=0, queue_size=100)
    found = await batcher.generate(Writer(), ["ab", "cd", "ef"])
    assert [one.text for one in found] == ["ba", "dc", "fe"]
    await batcher.stop()
