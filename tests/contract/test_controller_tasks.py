"""One controller, several tasks: what hangs or fails in one delays no other, nor a person."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from settings_file import load

from flywheel.contracts.codec import decode
from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import Unavailable
from flywheel.processes.controller import OWNER, Controller
from flywheel.processes.leasing import Leases
from flywheel.rollout.commands import ask
from flywheel.rollout.decide import Readiness
from flywheel.rollout.ports import Command, CommandKind
from storage.database import Database, Transaction

TASKS = ("fast", "slow")
CONFIG = "".join(
    f"""
[tasks.{task}]
labels = ["a", "b"]
training.base_model = "/none"
rollout.warm_seconds = 600.0
"""
    for task in TASKS
)


class Servers:
    """Answer for every release but those that hang, until they are let go, and those that fail."""

    def __init__(self) -> None:
        self.hanging: set[str] = set()
        self.failing: set[str] = set()
        self.let_go = threading.Event()
        self.asked: list[str] = []

    def ready(self, release: str) -> Readiness:
        self.asked.append(release)
        if release in self.hanging:
            self.let_go.wait(60)
        if release in self.failing:
            raise Unavailable(f"{release} is a surprise")
        return Readiness(ready=1, total=1)

    def loaded(self, releases: Collection[str]) -> Mapping[str, Readiness]:
        return {release: self.ready(release) for release in releases}


class World:
    """A controller that steps when told to."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.servers = database, Servers()
        self.settings = load(folder, CONFIG)
        self.leases = Leases(database, OWNER, "one", tasks=TASKS, seconds=600.0)
        self.controller = Controller(self.settings, database, self.leases, self.servers)
        self.leases.round()

    def until(self, what: str, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, what
            self.controller.step()
            time.sleep(0.02)

    def register(self, task: str, release: str) -> None:
        with self.database.transaction() as tx:
            tx.challengers.enqueue(task, release, utc_now(), True)

    def state(self, task: str) -> tuple[str, str]:
        with self.database.transaction(read_only=True) as tx:
            newest = next(iter(tx.rollouts.history(task, 1)), None)
        return (newest.challenger, newest.state) if newest else ("", "")

    def person(self, task: str, kind: CommandKind) -> Callable[[], str | None]:
        with self.database.transaction("cli") as tx:
            running = tx.rollouts.history(task, 1)[0]
            command = Command(
                command_id=new_id(),
                task=task,
                kind=kind,
                by="ada",
                why="a test",
                at=utc_now(),
                rollout_id=running.rollout_id,
                revision=running.revision,
            )
            assert ask(tx, command) == ""

        def outcome() -> str | None:
            with self.database.transaction(read_only=True) as tx:
                asked = tx.commands.asked(command.command_id)
            return asked.outcome if asked else None

        return outcome

    def said(self) -> list[tuple[str, str]]:
        rows = self.database.outbox_rows(OWNER).unsent(1000)
        events = [decode(record.value, dict(record.headers)) for _, record in rows]
        return [(e.task, e.state) for e in events if isinstance(e, RolloutChanged)]


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[World]:
    made = World(database, tmp_path)
    for task in TASKS:
        made.register(task, f"{task}-0")
    for task in TASKS:
        made.until("first champion", lambda task=task: made.state(task) == (f"{task}-0", "serving"))  # type: ignore[misc]
        made.register(task, f"{task}-1")
    for task in TASKS:
        made.until("a share", lambda task=task: made.state(task) == (f"{task}-1", "canary"))  # type: ignore[misc]
    yield made
    made.servers.let_go.set()
    made.controller.stop()


def test_a_server_that_hangs_for_one_task_delays_no_other(world: World) -> None:
    world.servers.hanging = {"slow-0", "slow-1"}
    world.servers.asked.clear()
    world.until("it hangs", lambda: "slow-1" in world.servers.asked)
    outcome = world.person("fast", "rollback")
    world.until("the other's rollback", outcome)
    assert outcome() == "rolled_back"
    own = world.person("slow", "rollback")
    world.until("a person does not wait for it either", own)
    assert own() == "rolled_back"
    assert not world.servers.let_go.is_set()
    assert world.said()[-1] == ("slow", "rolled_back")


def test_an_error_in_one_task_aborts_no_round(world: World) -> None:
    world.servers.failing = {"slow-0", "slow-1"}
    world.until("it is said", world.controller.problem)
    assert "slow: slow-1 is a surprise" in (world.controller.problem() or "")
    world.register("fast", "fast-2")
    outcome = world.person("fast", "promote")
    world.until("the other goes on", outcome)
    world.until("and on", lambda: world.state("fast") == ("fast-2", "canary"))
    world.servers.failing = set()
    world.until("it comes back", lambda: world.controller.problem() is None)


def test_a_split_that_came_twice_is_followed_by_the_present_one(world: World) -> None:
    (_, record), *_ = world.database.outbox_rows(OWNER).unsent(1000)
    old = decode(record.value, dict(record.headers))
    before = len(world.said())
    world.controller.announce_again(old)
    world.until("it is said again", lambda: len(world.said()) > before)
    assert world.said()[before] == (old.task, "canary")


def test_nothing_is_written_without_the_lease(world: World) -> None:
    other = Leases(world.database, OWNER, "two", tasks=TASKS, seconds=600.0)
    with world.database.transaction() as tx:
        tx.leases.release("one", [f"{OWNER}/{task}" for task in TASKS])
    other.round()
    other.round()
    taken = [task for task in TASKS if other.held(task) is not None]
    assert taken, "it does not know yet that they are the other's"
    outcomes = {task: world.person(task, "rollback") for task in taken}
    for _ in range(20):
        world.controller.step()
        time.sleep(0.02)
    assert not any(outcome() for outcome in outcomes.values())


def test_a_person_does_not_wait_for_a_task_that_fails(world: World) -> None:
    world.servers.failing = {"slow-0", "slow-1"}
    world.until("it fails again and again", world.controller.problem)
    outcome = world.person("slow", "rollback")
    world.until("the rollback", outcome)
    assert outcome() == "rolled_back"


def test_a_controller_without_work_reads_nothing_until_there_is_some(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, tmp_path)
    transactions: list[bool] = []
    real = Database.transaction

    def counted(self: Database, *those: Any, **more: Any) -> AbstractContextManager[Transaction]:
        transactions.append(True)
        return real(self, *those, **more)

    monkeypatch.setattr(Database, "transaction", counted)

    def rests() -> bool:
        before = len(transactions)
        for _ in range(10):
            world.controller.step()
        return len(transactions) == before

    world.until("it rests", rests)
    monkeypatch.undo()
    world.register("fast", "fast-0")
    world.until("a champion", lambda: world.state("fast") == ("fast-0", "serving"))
    world.controller.stop()
