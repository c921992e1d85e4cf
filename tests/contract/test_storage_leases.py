"""Leases: one holder at a time, by the database's clock; what an earlier one writes is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from flywheel.contracts.leases import Lease
from flywheel.errors import LeaseLost, StorageError
from storage.database import Database

LONG, OVER = 60.0, -1.0


def acquire(database: Database, name: str, holder: str, seconds: float = LONG) -> Lease | None:
    with database.transaction() as tx:
        return tx.leases.acquire(name, holder, seconds)


def make_champion(
    database: Database, lease: Lease, release: str, then: Callable[[], None] = lambda: None
) -> None:
    """A holder's write; ``then`` happens before it writes on, and commits."""
    with database.transaction(lease=lease) as tx:
        tx.rollouts.set_champion("t", f"{release} at first")
        then()
        tx.rollouts.set_champion("t", release)


def test_a_lease_is_kept_from_others_until_it_runs_out(database: Database) -> None:
    first = acquire(database, "turn", "one", OVER)
    assert first is not None
    assert acquire(database, "other", "two") is not None
    second = acquire(database, "turn", "two")
    assert second is not None
    assert second.token > first.token
    assert acquire(database, "turn", "one") is None
    assert acquire(database, "turn", "two") is None, "it is taken once"


def test_a_renewal_keeps_what_ran_out_and_nobody_took(database: Database) -> None:
    kept, lost = acquire(database, "kept", "one", OVER), acquire(database, "lost", "one", OVER)
    acquire(database, "lost", "two")
    with database.transaction() as tx:
        assert tx.leases.renew("one", LONG) == [kept]
        assert {lease.name: lease.holder for lease in tx.leases.live()} == {
            "kept": "one",
            "lost": "two",
        }
    assert lost is not None
    assert acquire(database, "kept", "two") is None


def test_what_is_given_up_is_free_at_once_and_never_has_an_old_token(database: Database) -> None:
    first = acquire(database, "turn", "one")
    with database.transaction() as tx:
        tx.leases.release("two", ["turn"])
    assert acquire(database, "turn", "two") is None, "it was not its own to give up"
    with database.transaction() as tx:
        tx.leases.release("one", ["turn"])
        assert tx.leases.renew("one", LONG) == []
    again = acquire(database, "turn", "one")
    assert first is not None
    assert again is not None
    assert again.token > first.token


def test_an_earlier_holder_writes_nothing(database: Database) -> None:
    stale = acquire(database, "turn", "one", OVER)
    assert stale is not None
    with database.transaction(lease=stale) as tx:
        tx.rollouts.set_champion("t", "r1")  # it ran out, and nobody else has it
    current = acquire(database, "turn", "two")
    assert current is not None
    with pytest.raises(LeaseLost, match="one does not hold turn"):
        make_champion(database, stale, "r2")
    with database.transaction(lease=current) as tx:
        assert tx.rollouts.champion("t") == "r1"
        tx.rollouts.set_champion("t", "r3")
    with database.transaction() as tx:
        tx.leases.release("two", ["turn"])
    with pytest.raises(LeaseLost), database.transaction(lease=current):
        pass


def test_one_of_many_gets_a_lease(database: Database) -> None:
    got: list[Lease] = []
    barrier = threading.Barrier(6)

    def work(holder: str) -> None:
        barrier.wait()
        lease = acquire(database, "turn", holder)
        if lease is not None:
            got.append(lease)

    threads = [threading.Thread(target=work, args=(f"holder {i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_lease_is_not_taken_in_the_middle_of_its_holders_transaction(
    postgresql_database: Database,
) -> None:
    database = postgresql_database
    held = acquire(database, "turn", "one", OVER)
    assert held is not None
    with database.transaction(lease=held) as tx:
        tx.rollouts.set_champion("t", "r1")
        assert acquire(database, "turn", "two") is None
        assert acquire(database, "other", "two") is not None, "nothing else waits for it"
    assert acquire(database, "turn", "two") is not None


def test_a_holder_that_hangs_in_a_transaction_loses_it(postgresql_database: Database) -> None:
    database = postgresql_database
    held = acquire(database, "turn", "one", OVER)
    assert held is not None

    def hang() -> None:
        deadline = time.monotonic() + 60
        while acquire(database, "turn", "two") is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with pytest.raises(StorageError):
        make_champion(database, held, "r1", hang)
    with pytest.raises(LeaseLost):
        make_champion(database, held, "r2")
    with database.transaction() as tx:
        assert tx.rollouts.champion("t") is None


def test_presences_that_ran_out_are_forgotten(database: Database) -> None:
    for name, seconds in (("worker@a", OVER), ("worker@b", LONG), ("other@a", OVER)):
        acquire(database, name, name, seconds)
    with database.transaction() as tx:
        tx.leases.forget("worker@")
        tx.leases.forget("other@", "somebody else")
        assert [lease.name for lease in tx.leases.live()] == ["worker@b"]
        assert tx.leases.renew("worker@a", LONG) == []
        assert len(tx.leases.renew("other@a", LONG)) == 1
        tx.leases.forget("worker@", "worker@b")
        assert [lease.name for lease in tx.leases.live()] == ["other@a"]
