"""Wrong keys are slowed, by peer and over all; nobody who holds the right one is shut out."""

from __future__ import annotations

from contextlib import suppress

import pytest

from flywheel.console.sign_ins import SignIns
from flywheel.errors import TooManyRequests
from flywheel.monitoring.bearer import AcceptedKeys

KEY = "the-right-key"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sign_ins(clock: Clock, of_all: int = 1000) -> SignIns:
    return SignIns(
        AcceptedKeys([KEY]),
        of_peer=3,
        peer_seconds=10.0,
        of_all=of_all,
        all_seconds=10.0,
        clock=clock,
    )


def guesses(door: SignIns, peer: str, count: int) -> int:
    """How many of ``count`` wrong keys were looked at."""
    looked = 0
    for number in range(count):
        with suppress(TooManyRequests):
            assert not door.accept(peer, f"guess {number}")
            looked += 1
    return looked


def test_a_peer_is_wrong_a_few_times_at_once_and_then_slowly() -> None:
    clock = Clock()
    door = sign_ins(clock)
    assert guesses(door, "a", 100) == 3
    clock.now = 9.9
    assert guesses(door, "a", 100) == 0
    clock.now = 10.1
    assert guesses(door, "a", 100) == 1
    clock.now = 1000.0
    assert guesses(door, "a", 100) == 3


def test_the_right_key_tells_a_slowed_peer_nothing() -> None:
    clock = Clock()
    door = sign_ins(clock)
    guesses(door, "a", 3)
    with pytest.raises(TooManyRequests) as refused:
        door.accept("a", KEY)
    clock.now += refused.value.retry_after
    assert door.accept("a", KEY)
    assert guesses(door, "a", 100) == 1
    assert door.accept("a", KEY)


def test_many_peers_are_slowed_together_and_new_ones_are_heard() -> None:
    clock = Clock()
    door = sign_ins(clock, of_all=20)
    assert sum(guesses(door, f"bot-{n}", 1) for n in range(20)) == 20
    assert sum(guesses(door, f"bot-{n}", 2) for n in range(20)) == 0
    assert door.accept("holder", KEY)
