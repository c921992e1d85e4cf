"""Three trainers, killed and hung in the middle of turns: each request is one turn, which another
trainer goes on with, and nobody who woke up too late writes anything of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from fleet import Fleet, database_of, eventually, fleet
from quick_pipeline import add_label

from flywheel.contracts.ids import new_id, utc_now
from flywheel.retraining.ports import TurnRequest
from storage.database import Database

# Minutes together: .ci/run runs them after `make test`.
pytestmark = pytest.mark.slow

TASKS = ("one", "two", "three", "four")
REQUESTS = 3


@pytest.fixture(params=["sqlite", "postgresql"])
def trainers(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with fleet("trainer_process.py", request, TASKS, shared=False) as made:
        yield made


@pytest.fixture
def database(trainers: Fleet) -> Iterator[Database]:
    with database_of(trainers) as made:
        for task in TASKS:
            add_label(made, task)
        yield made


def ask(database: Database, task: str) -> str:
    request_id = new_id()
    with database.transaction("cli") as tx:
        tx.turns.request(
            TurnRequest(request_id=request_id, task=task, by="ada", why="a test", at=utc_now())
        )
    return request_id


def waiting(database: Database) -> list[str]:
    with database.transaction(read_only=True) as tx:
        return [task for task in TASKS if tx.turns.take_request(task) is not None]


def test_each_request_is_one_turn_whoever_dies_or_hangs(
    trainers: Fleet, database: Database
) -> None:
    lots = random.Random(3)
    asked = {ask(database, task): task for _ in range(REQUESTS) for task in TASKS}
    for _ in range(3):
        trainers.start()
    deadline = time.monotonic() + 240
    while waiting(database):
        assert time.monotonic() < deadline, trainers.log.read_text()
        victim = lots.choice(sorted(trainers.alive))
        if lots.random() < 0.5:
            trainers.kill(victim)
            trainers.start()
        else:
            trainers.hang(victim)
            time.sleep(4.0)  # past its lease
            trainers.wake(victim)
        time.sleep(1.5)
    with database.transaction(read_only=True) as tx:
        for task in TASKS:
            turns = tx.turns.history(task)
            mine = {turn.turn_id for turn in turns if turn.turn_id in asked}
            assert mine == {request for request, of in asked.items() if of == task}
            assert all(turn.state == "succeeded" for turn in turns), turns
            versions = Counter(version.version for version in tx.datasets.history(task))
            assert set(versions.values()) <= {1}


def test_trainers_share_the_work_and_one_workspace_makes_one_turn_at_a_time(
    trainers: Fleet, database: Database
) -> None:
    trainers.start()
    trainers.start()
    asked = [ask(database, task) for task in TASKS]
    eventually("all turns are made", lambda: not waiting(database))
    notes = [line.split() for line in trainers.log.read_text().splitlines()]
    by = {words[3]: words[0] for words in notes if words[1] == "begin" and words[3] in asked}
    assert len(set(by.values())) == 2, "both worked"
    running: set[str] = set()
    for pid, what, *_ in notes:
        if what == "begin":
            assert pid not in running, "a workspace is one turn's at a time"
            running.add(pid)
        elif what == "end":
            running.discard(pid)
