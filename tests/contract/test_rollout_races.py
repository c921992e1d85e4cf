"""Two controllers and a person at the same time, on real databases: nobody's word is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from flywheel.contracts.codec import decode
from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id
from flywheel.rollout.commands import ask
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import tick
from flywheel.rollout.decide import Readiness
from flywheel.rollout.ports import Command, CommandKind, Rollout
from storage.database import Database, Transaction

TASK = "topics"
START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = RolloutSettings(steps=(0.2,))
PATIENCE = 1.0  # what a transaction that waits for another one is given before that one goes on


class Ready:
    """Model servers that answer; ``then`` happens while they are asked."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.then = then

    def ready(self, release: str) -> Readiness:
        then, self.then = self.then, lambda: None
        then()
        return Readiness(ready=1, total=1)


class Controller:
    """A controller; ``inside`` happens once, in its next transaction that writes."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = START
        self.inside: Callable[[Transaction], object] | None = None

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.database.transaction("controller") as tx:
            if self.inside is not None:
                active, inside, self.inside = tx.rollouts.active, self.inside, None

                def and_then(task: str) -> Rollout | None:
                    found = active(task)
                    tx.rollouts.active = active  # type: ignore[method-assign]
                    inside(tx)
                    return found

                tx.rollouts.active = and_then  # type: ignore[method-assign]
            yield tx

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        with self.database.transaction(read_only=True) as tx:
            yield tx

    def tick(self, servers: Ready | None = None) -> RolloutChanged | None:
        self.now += timedelta(seconds=1)
        return tick(self.transaction, self.reading, TASK, SETTINGS, servers or Ready(), self.now)


def person(database: Database, kind: CommandKind) -> str:
    """What somebody asks of the running rollout; why it was refused, if it was."""
    with database.transaction("cli") as tx:
        running = tx.rollouts.history(TASK, 1)[0]
        command = Command(
            command_id=new_id(),
            task=TASK,
            kind=kind,
            by="oncall",
            why="it is wrong",
            at=START,
            rollout_id=running.rollout_id,
            revision=running.revision,
        )
        return ask(tx, command)


def meanwhile(work: Callable[[], object]) -> threading.Thread:
    """``work`` in a thread, given time to end or to meet a lock."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    return thread


@pytest.fixture
def one(database: Database) -> Controller:
    """A controller that is about to give the challenger r2 its share."""
    made = Controller(database)
    for release in ("r1", "r2"):
        with database.transaction("controller") as tx:
            tx.challengers.enqueue(TASK, release, START, True)
        made.tick()
    return made


def announced(database: Database) -> list[tuple[str, str]]:
    """(state, by whom) of every change that was announced."""
    rows = database.outbox_rows("controller").unsent(100)
    events = [decode(record.value, dict(record.headers)) for _, record in rows]
    return [(e.state, e.decided_by) for e in events if isinstance(e, RolloutChanged)]


def ended(database: Database) -> None:
    """The person's rollback stands, and is the last word that was announced."""
    with database.transaction(read_only=True) as tx:
        newest = tx.rollouts.history(TASK, 1)[0]
        states = [change.state for change in tx.rollouts.transitions(newest.rollout_id)]
        assert tx.rollouts.champion(TASK) == "r1"
        assert tx.commands.pending(TASK) == []
    assert newest.state == states[-1] == "rolled_back"
    assert announced(database)[-1] == ("rolled_back", "oncall")
    assert states.count("rolled_back") == 1


def test_a_rollback_that_another_controller_carries_out_is_not_overwritten(one: Controller) -> None:
    two = Controller(one.database)
    threads = []

    def on_call(_: Transaction) -> None:
        def acts() -> None:
            person(one.database, "rollback")
            two.tick()

        threads.append(meanwhile(acts))

    one.inside = on_call
    one.tick()
    for thread in threads:
        thread.join()
    one.tick()
    two.tick()
    ended(one.database)


def test_a_command_that_comes_while_a_decision_is_made_is_carried_out_first(
    one: Controller,
) -> None:
    # Both had the same state before them; nobody else carries the command out.
    assert one.tick(Ready(lambda: person(one.database, "rollback"))) is None
    event = one.tick()
    assert event is not None
    assert event.state == "rolled_back"
    ended(one.database)


def test_whoever_asks_while_a_decision_is_written_is_told_what_became_of_it(
    one: Controller,
) -> None:
    # The controller has changed the rollout and not committed: the person meets its new state.
    threads, refused = [], []

    def late(tx: Transaction) -> None:
        save = tx.rollouts.save

        def and_then(*values: object) -> None:
            save(*values)  # type: ignore[arg-type]
            threads.append(meanwhile(lambda: refused.append(person(one.database, "pause"))))

        tx.rollouts.save = and_then  # type: ignore[method-assign,assignment]

    one.inside = late
    event = one.tick()
    assert event is not None
    assert event.state == "canary"
    for thread in threads:
        thread.join()
    assert refused == [""], "a step that was taken meanwhile refuses no pause"
    event = one.tick()
    assert event is not None
    assert (event.state, event.split.challenger_share) == ("paused", 0.2)


def test_two_controllers_carry_a_command_out_once(one: Controller) -> None:
    two = Controller(one.database)
    threads: list[threading.Thread] = []
    person(one.database, "rollback")
    one.inside = lambda _: threads.append(meanwhile(two.tick))
    one.tick()
    for thread in threads:
        thread.join()
    one.tick()
    ended(one.database)


def test_two_controllers_make_one_first_champion(database: Database) -> None:
    one, two = Controller(database), Controller(database)
    with database.transaction("controller") as tx:
        tx.challengers.enqueue(TASK, "r1", START, True)
    threads: list[threading.Thread] = []
    one.inside = lambda _: threads.append(meanwhile(two.tick))
    one.tick()
    for thread in threads:
        thread.join()
    assert [state for state, _ in announced(database)] == ["serving"]
