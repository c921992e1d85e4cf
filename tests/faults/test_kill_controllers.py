"""Three controllers, killed and hung past their leases while people command: one champion a task,
no transition lost, and what a person asked for stands."""

from __future__ import annotations

import base64
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleet import Fleet, database_of, eventually, fleet

from flywheel.contracts.codec import decode
from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.leases import LEASE_SECONDS, duty
from flywheel.processes.leasing import ROUND_SECONDS
from flywheel.rollout.commands import ask
from flywheel.rollout.ports import Command, CommandKind
from storage.database import Database

# Minutes together: .ci/run runs them after `make test`.
pytestmark = pytest.mark.slow

TASKS = tuple(f"task-{number}" for number in range(6))


@pytest.fixture(params=["sqlite", "postgresql"])
def controllers(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with fleet("controller_process.py", request, TASKS, shared=True) as made:
        yield made


@pytest.fixture
def database(controllers: Fleet) -> Iterator[Database]:
    with database_of(controllers) as made:
        yield made


def published_in(log: Path) -> list[RolloutChanged]:
    """What a reader makes of the log: an event that comes again is passed over."""
    found: dict[str, RolloutChanged] = {}
    for line in log.read_text().splitlines():
        value, *rest = (base64.b64decode(part) for part in line.split(" "))
        headers = dict(zip((name.decode() for name in rest[::2]), rest[1::2], strict=True))
        event = decode(value, headers)
        assert isinstance(event, RolloutChanged)
        found.setdefault(event.event_id, event)
    return list(found.values())


def holders(database: Database) -> dict[str, str]:
    """Task → who carries its rollout."""
    with database.transaction(read_only=True) as tx:
        live = {lease.name: lease.holder for lease in tx.leases.live()}
    return {task: live[name] for task in TASKS if (name := duty("controller", task)) in live}


def register(database: Database, task: str, release: str) -> None:
    with database.transaction() as tx:
        tx.challengers.enqueue(task, release, utc_now(), True)


class Person(threading.Thread):
    """Has one release after another rolled out on a task, and promotes or rolls each back."""

    def __init__(self, database: Database, task: str, rollouts: int) -> None:
        super().__init__()
        self.database, self.task, self.rollouts = database, task, rollouts
        self.promoted = [f"{task}-0"]
        self.commands: list[tuple[str, CommandKind]] = []
        self.failure = ""

    def run(self) -> None:
        try:
            for number in range(1, self.rollouts + 1):
                self._one(f"{self.task}-{number}", "promote" if number % 2 else "rollback")
        except Exception as error:  # noqa: BLE001 - said by the test
            self.failure = repr(error)

    def _one(self, release: str, kind: CommandKind) -> None:
        register(self.database, self.task, release)
        eventually(f"{release} has traffic", lambda: self._running(release))
        while True:
            command = self._ask(kind)
            if command is not None:
                break
        eventually(f"{kind} of {release}", lambda: self._outcome(command))
        assert self._outcome(command) in ("promoted", "rolled_back"), self._outcome(command)
        self.commands.append((command, kind))
        if kind == "promote":
            self.promoted.append(release)

    def _running(self, release: str) -> bool:
        with self.database.transaction(read_only=True) as tx:
            active = tx.rollouts.active(self.task)
        return active is not None and active.challenger == release and active.share > 0

    def _ask(self, kind: CommandKind) -> str | None:
        with self.database.transaction("cli") as tx:
            active = tx.rollouts.active(self.task)
            assert active is not None
            command = Command(
                command_id=new_id(),
                task=self.task,
                kind=kind,
                by="ada",
                why="a test",
                at=utc_now(),
                rollout_id=active.rollout_id,
                revision=active.revision,
            )
            return None if ask(tx, command) else command.command_id

    def _outcome(self, command_id: str) -> str | None:
        with self.database.transaction(read_only=True) as tx:
            asked = tx.commands.asked(command_id)
        assert asked is not None
        return asked.outcome


@contextmanager
def people(database: Database, rollouts: int) -> Iterator[list[Person]]:
    for task in TASKS:
        register(database, task, f"{task}-0")
    eventually("first champions", lambda: len(champions(database)) == len(TASKS))
    made = [Person(database, task, rollouts) for task in TASKS]
    for person in made:
        person.start()
    yield made
    for person in made:
        person.join(240)
        assert not person.is_alive()
        assert not person.failure, f"{person.task}: {person.failure}"


def champions(database: Database) -> dict[str, str]:
    with database.transaction(read_only=True) as tx:
        return tx.rollouts.champions()


def test_controllers_that_die_and_hang_lose_and_double_nothing(
    controllers: Fleet, database: Database
) -> None:
    lots = random.Random(7)
    for _ in range(3):
        controllers.start()
    with people(database, 4) as made:
        while any(person.is_alive() for person in made):
            victim = lots.choice(sorted(controllers.alive))
            if lots.random() < 0.5:
                controllers.kill(victim)
                controllers.start()
            else:
                controllers.hang(victim)
                time.sleep(4.0)  # past its lease
                controllers.wake(victim)
            time.sleep(1.0)
    eventually("all is published", lambda: not database.outbox_rows("controller").unsent(1))
    assert champions(database) == {person.task: person.promoted[-1] for person in made}
    published = defaultdict(list)
    for event in published_in(controllers.log):
        published[event.task].append(event)
    with database.transaction(read_only=True) as tx:
        for person in made:
            rollouts = tx.rollouts.history(person.task)[::-1]
            assert [one.challenger for one in rollouts] == [
                f"{person.task}-{number}" for number in range(5)
            ], "each release once, in its order"
            changes = [c for one in rollouts for c in tx.rollouts.transitions(one.rollout_id)]
            by_people = [change.state for change in changes if change.decided_by == "ada"]
            wanted = {"promote": "promoted", "rollback": "rolled_back"}
            assert by_people == [wanted[kind] for _, kind in person.commands]
            # A split is said again by whoever takes a task over, the first time in its order.
            said = [(e.rollout_id, e.state) for e in published[person.task]]
            happened = [(change.rollout_id, change.state) for change in changes]
            assert [one for n, one in enumerate(said) if one != (said[n - 1] if n else None)] == [
                one for n, one in enumerate(happened) if one != (happened[n - 1] if n else None)
            ]


def test_a_lease_runs_out_and_is_looked_for_within_five_seconds() -> None:
    assert LEASE_SECONDS + ROUND_SECONDS < 5.0


def test_the_tasks_of_a_controller_that_is_killed_or_hangs_move_to_others(
    controllers: Fleet, database: Database
) -> None:
    first, second, third = (controllers.start() for _ in range(3))
    eventually(
        "an even share",
        lambda: sorted(holders(database).values()) == sorted([first, second, third] * 2),
    )
    controllers.kill(first)
    eventually(
        "the others have them",
        lambda: sorted(holders(database).values()) == sorted([second, third] * 3),
    )
    controllers.hang(second)
    eventually("the third has them", lambda: set(holders(database).values()) == {third})
    register(database, TASKS[0], "r1")
    eventually("it goes on", lambda: champions(database) == {TASKS[0]: "r1"})
    controllers.wake(second)
    eventually(
        "who woke takes its share again",
        lambda: sorted(holders(database).values()) == sorted([second, third] * 3),
    )
