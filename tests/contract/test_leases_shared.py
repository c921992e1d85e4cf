"""Several processes of a role: tasks are shared evenly, and move when one dies or hangs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from flywheel.contracts.leases import OUTBOX, duty
from flywheel.processes.leasing import Leases, moves
from storage.database import Database

TASKS = tuple(f"task-{number:02}" for number in range(20))
SHORT = 0.4


def member(database: Database, name: str, seconds: float = 60.0) -> Leases:
    return Leases(database, "controller", name, tasks=TASKS, seconds=seconds)


def held(one: Leases) -> set[str]:
    return {task for task in TASKS if one.held(task) is not None}


def settle(members: Sequence[Leases], rounds: int = 3) -> None:
    for _ in range(rounds):
        for one in members:
            one.round()


@pytest.mark.parametrize(
    ("mine", "taken", "members", "take", "give"),
    [
        ("", "", 1, "abcde", ""),
        ("", "", 2, "abc", ""),
        ("abcde", "", 2, "", "de"),
        ("abc", "de", 2, "", ""),
        ("de", "abc", 2, "", ""),
        ("", "abc", 2, "de", ""),
        ("a", "", 10, "", ""),
        ("ab", "", 10, "", "b"),
        ("", "abcde", 0, "", ""),
    ],
)
def test_a_like_share_and_no_needless_move(
    mine: str, taken: str, members: int, take: str, give: str
) -> None:
    assert moves("abcde", set(mine), set(taken), members) == (list(take), list(give))


def test_one_has_all_and_shares_with_whoever_comes(database: Database) -> None:
    members = [member(database, "one")]
    settle(members)
    assert held(members[0]) == set(TASKS)
    for count in (2, 3, 10):
        members += [member(database, f"m{number}") for number in range(len(members), count)]
        settle(members)
        shares = [held(one) for one in members]
        assert sorted(task for share in shares for task in share) == list(TASKS), "each is one's"
        assert max(map(len, shares)) <= -(-len(TASKS) // count)
        assert sum(one.relays() for one in members) == 1
    members.pop().stop()
    members.pop(0).stop()
    settle(members)
    assert sorted(task for one in members for task in held(one)) == list(TASKS)
    assert sum(one.relays() for one in members) == 1


def test_what_one_had_that_says_nothing_more_moves_to_another(database: Database) -> None:
    silent, other = member(database, "silent", SHORT), member(database, "other", SHORT)
    silent.round()
    lease = silent.held(TASKS[0])
    assert lease is not None
    deadline = time.monotonic() + 60
    while held(other) != set(TASKS):
        other.round()
        assert time.monotonic() < deadline
    assert held(silent) == set()
    assert not silent.relays()
    lost: list[str] = []
    silent._lost = lost.append
    silent.round()
    assert set(lost) == {duty("controller", what) for what in (*TASKS, OUTBOX)}


def test_a_lease_that_is_asked_for_is_given_up_though_the_database_was_away(
    database: Database,
) -> None:
    one, two = (Leases(database, "trainer", name, seconds=60.0) for name in ("one", "two"))
    one.round()
    lease = one.acquire("t")
    assert lease is not None
    assert one.acquire("t") is None
    assert two.acquire("t") is None
    one.round()
    assert one.held("t") == lease
    one._asked.discard(lease.name)  # as by a release that the database did not answer
    one.round()
    assert two.acquire("t") is not None
