"""A model server loads releases by the addresses that splits carry, and holds what it serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from release_machine import Machine

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.model_folder import Predictor
from flywheel.contracts.release import Release
from flywheel.contracts.split import TrafficSplit
from flywheel.errors import ArtefactError
from flywheel.processes.engines import Engine
from flywheel.processes.fetched import FetchedReleases
from flywheel.serving.engine import Classifier, InProcess
from flywheel.serving.releases import ReleaseSet


class Loaded(InProcess, Predictor):
    """Answers nothing; a folder was loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def labels(self) -> tuple[str, ...]:
        return ("weather", "money")

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [{"weather": 0.5, "money": 0.5} for _ in texts]


class Server:
    """A machine with an engine that loads whatever lies there, or what a test says."""

    def __init__(self, root: Path) -> None:
        self.machine = Machine(root, "server", most_bytes=1)
        self.problem: str | None = None
        engine = Engine(self._load, lambda: None)
        self.fetched = FetchedReleases(self.machine.layout, self.machine.artefacts, engine)

    def _load(self, _release: str, folder: Path) -> Classifier:
        assert (folder / "release.json").is_file()
        if self.problem is not None:
            raise ArtefactError(self.problem)
        return Loaded(folder)

    def crowd_out(self, release: Release) -> list[str]:
        """What is left in the cache once another release was fetched."""
        self.machine.learn(release)
        self.machine.folders.hold(release.release).release()
        return self.machine.cached


@pytest.fixture
def trainer(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "trainer")


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def split(*releases: Release) -> RolloutChanged:
    champion, *others = releases
    return RolloutChanged(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="topics",
        rollout_id="r",
        state="canary",
        split=TrafficSplit(
            task="topics",
            champion=champion.release,
            challenger=others[0].release if others else None,
        ),
        decided_by="test",
        reason="",
        kept=tuple(one.kept for one in releases if one.kept is not None),
    )


def test_what_a_split_names_is_fetched_and_held_until_it_is_closed(
    trainer: Machine, server: Server
) -> None:
    one, two, three = (trainer.make(name, fill=n) for n, name in enumerate(("a", "b", "c")))
    server.fetched.update(split(one))
    server.fetched.load(one.release)
    assert len(server.crowd_out(two)) == 2, "what is served stays"
    server.fetched.closed(one.release)
    assert len(server.crowd_out(three)) == 1


def test_what_could_not_be_loaded_is_not_held(trainer: Machine, server: Server) -> None:
    one, two = trainer.make("a"), trainer.make("b", fill=1)
    server.fetched.update(split(one))
    server.problem = "no engine for it"
    with pytest.raises(ArtefactError, match="no engine"):
        server.fetched.load(one.release)
    assert len(server.crowd_out(two)) == 1


def test_a_release_that_is_loaded_twice_is_held_until_both_are_closed(
    trainer: Machine, server: Server
) -> None:
    """As after an engine that died: the new one is loaded before the old one is closed."""
    one, two, three = (trainer.make(name, fill=n) for n, name in enumerate(("a", "b", "c")))
    server.fetched.update(split(one))
    for _ in range(2):
        server.fetched.load(one.release)
    server.fetched.closed(one.release)
    assert len(server.crowd_out(two)) == 2
    server.fetched.closed(one.release)
    assert len(server.crowd_out(three)) == 1


def test_without_an_address_the_reason_is_said(trainer: Machine, server: Server) -> None:
    release = trainer.make().release
    with pytest.raises(ArtefactError, match="no address says where it is kept"):
        server.fetched.load(release)


def test_a_set_of_releases_tells_what_it_has_closed(trainer: Machine, server: Server) -> None:
    one, two = trainer.make("a"), trainer.make("b", fill=1)
    closed: list[str] = []

    def tell(release: str) -> None:
        server.fetched.closed(release)
        closed.append(release)

    releases = ReleaseSet(server.fetched.load, closed=tell, grace_seconds=0.0)
    event = split(one, two)
    server.fetched.update(event)
    releases.update(event)
    releases.start()
    try:
        eventually(lambda: {one.state for one in releases.statuses()} == {"ready"})
        assert len(server.machine.cached) == 2
        releases.update(split(one))
        eventually(lambda: closed == [two.release])
    finally:
        releases.stop()
    assert sorted(closed) == sorted([one.release, two.release])
