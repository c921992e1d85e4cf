"""How far a group is: the same whatever comes again, and in whatever order."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.positions import MOST_GAPS, Handled, Position, moved
from storage.database import Database

PLACE = ("topic", 0)


def part(first: int, end: int, log: str = "log") -> Handled:
    return Handled("topic", 0, log, range(first, end), end)


def after(*parts: Handled) -> Position | None:
    position = None
    for one in parts:
        position = moved(position, one)
    return position


def test_what_follows_moves_it_on_and_what_comes_again_changes_nothing() -> None:
    assert after(part(0, 5), part(5, 9)) == Position("log", 9, 9)
    assert after(part(0, 5), part(5, 9), part(3, 7), part(0, 9)) == Position("log", 9, 9)
    assert after(part(0, 5), part(3, 9)) == Position("log", 9, 9)


def test_what_is_never_given_is_a_gap_until_it_is() -> None:
    gap = after(part(0, 5), part(8, 10))
    assert gap == Position("log", 10, 7, ((5, 8),))
    assert moved(gap, part(6, 7)) == Position("log", 10, 8, ((5, 6), (7, 8)))
    assert after(part(0, 5), part(8, 10), part(4, 9)) == Position("log", 10, 10)
    assert after(part(3, 5)) == Position("log", 5, 2, ((0, 3),))


def test_offsets_that_are_no_records_are_no_gap() -> None:
    committed = Handled("topic", 0, "log", [0, 1], 3)  # a transaction's mark at 2
    assert after(committed, part(3, 5)) == Position("log", 5, 4)


def test_a_log_made_anew_is_counted_anew() -> None:
    assert after(part(0, 50), part(0, 5, "new")) == Position("new", 5, 5)
    # It had grown past where reading stood, unnoticed.
    assert after(part(0, 50), part(50, 60, "new")) == Position("new", 60, 10, ((0, 50),))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), min_size=1), st.randoms())
def test_any_order_comes_to_the_same(spans: list[tuple[int, int]], chance: random.Random) -> None:
    parts = [part(first, first + length) for first, length in spans]
    given_ = {offset for one in parts for offset in one.offsets}
    found = after(*parts)
    assert found is not None
    assert found.records == len(given_)
    gaps = {offset for begin, stop in found.gaps for offset in range(begin, stop)}
    assert gaps == set(range(found.next)) - given_
    chance.shuffle(parts)
    assert after(*parts) == found


def test_many_gaps_become_fewer_and_hide_nothing() -> None:
    position = after(*(part(n, n + 1) for n in range(0, 10 * MOST_GAPS, 3)))
    assert position is not None
    assert len(position.gaps) == MOST_GAPS
    gaps = {offset for begin, stop in position.gaps for offset in range(begin, stop)}
    assert gaps >= {offset for offset in range(position.next) if offset % 3}


def test_positions_are_kept_by_group_and_place(database: Database) -> None:
    other = Handled("topic", 1, "log", range(4), 4)
    with database.transaction() as tx:
        tx.positions.note("labels", [part(0, 5), other, part(7, 9)])
        tx.positions.note("evidence", [])
    with database.transaction() as tx:
        tx.positions.note("labels", [part(0, 5)])
        tx.positions.note("evidence", [part(0, 1)])
    with database.transaction(read_only=True) as tx:
        assert tx.positions.of("labels") == {
            PLACE: Position("log", 9, 7, ((5, 7),)),
            ("topic", 1): Position("log", 4, 4),
        }
        assert tx.positions.of("evidence") == {PLACE: Position("log", 1, 1)}
        assert tx.positions.begun("labels")
        assert tx.positions.begun("never heard of")
