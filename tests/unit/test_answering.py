"""Whether champions answer: of a hundred few are asked, each in its turn, none is forgotten."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flywheel.processes.answering import ASKED, Answering
from flywheel.rollout.decide import Readiness

MANY = {f"task-{number}": f"r{number}" for number in range(100)}


class Servers:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.unloaded: set[str] = set()
        self.failing: set[str] = set()

    def ready(self, release: str) -> Readiness:
        self.asked.append(release)
        down = release in self.unloaded | self.failing
        return Readiness(ready=0 if down else 2, total=2, reason="down" if down else "")

    def loaded(self, releases: Collection[str]) -> Mapping[str, Readiness]:
        return {one: Readiness(ready=0 if one in self.unloaded else 2, total=2) for one in releases}


def test_a_few_are_all_asked_each_time() -> None:
    servers = Servers()
    few = dict(list(MANY.items())[:ASKED])
    answering = Answering(lambda: few, servers)
    for _ in range(2):
        servers.asked.clear()
        answering.refresh()
        assert sorted(servers.asked) == sorted(few.values())


def test_of_many_each_has_its_turn_and_one_that_is_gone_is_seen_at_once() -> None:
    servers = Servers()
    answering = Answering(lambda: MANY, servers)
    for _ in range(len(MANY)):
        before = len(servers.asked)
        answering.refresh()
        assert len(servers.asked) - before == 1
    assert sorted(servers.asked) == sorted(MANY.values())
    assert answering.every() is None
    servers.unloaded = {"r7"}
    answering.refresh()
    assert "r7 is the champion and answers on none of 2" in (answering.unanswered("task-7") or "")
    servers.unloaded = set()
    answering.refresh()
    assert answering.every() is None, "who answered none is asked again"


def test_one_that_fails_when_it_is_asked_stays_so_until_it_answers() -> None:
    servers = Servers()
    servers.failing = {"r3", "r4"}
    answering = Answering(lambda: MANY, servers)
    for _ in range(len(MANY)):
        answering.refresh()
    for _ in range(3):
        answering.refresh()
        assert answering.unanswered("task-3")
        assert answering.unanswered("task-4")
    servers.failing = set()
    answering.refresh()
    assert answering.every() is None


def test_a_champion_that_is_only_busy_takes_nobody_out_of_a_load_balancer() -> None:
    class Busy(Servers):
        def ready(self, release: str) -> Readiness:
            return Readiness(ready=0, total=2, reason="did not answer in time", late=2)

    answering = Answering(lambda: {"task": "r1"}, Busy())
    answering.refresh()
    assert answering.unanswered("task") is None
    assert answering.all_tasks() is None
