"""Assignment: sticky, monotone in the share, and in the proportion that was asked for."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.split import TrafficSplit
from flywheel.gateway.choose_variant import Variant, choose_shadow, choose_variant, unit_of

shares = st.floats(0, 1)


def split(share: float, shadow: float = 0.0, rollout: str = "ro-1") -> TrafficSplit:
    return TrafficSplit(
        task="t",
        champion="a",
        challenger="b",
        rollout_id=rollout,
        challenger_share=share,
        shadow_share=shadow,
    )


def test_outside_a_rollout_there_is_no_arm() -> None:
    assert choose_variant(TrafficSplit(task="t", champion="a"), "u") == Variant("a", None)


@given(st.text(), shares, shares)
def test_a_rising_share_keeps_units_on_the_challenger(unit: str, one: float, two: float) -> None:
    low, high = sorted((one, two))
    if choose_variant(split(low), unit).arm == "challenger":
        assert choose_variant(split(high), unit).arm == "challenger"


@given(st.text(), shares)
def test_the_same_unit_meets_the_same_release(unit: str, share: float) -> None:
    assert choose_variant(split(share), unit) == choose_variant(split(share), unit)


@given(st.text())
def test_the_ends_are_exact(unit: str) -> None:
    assert choose_variant(split(0.0), unit).release == "a"
    assert choose_variant(split(1.0), unit).release == "b"


def test_units_meet_the_challenger_in_the_share_asked_for() -> None:
    count = 20_000
    for share in (0.05, 0.25, 0.5):
        hits = sum(
            choose_variant(split(share), f"user-{n}").arm == "challenger" for n in range(count)
        )
        # Five standard errors: this test is deterministic, and would catch any real bias.
        assert abs(hits / count - share) < 5 * math.sqrt(share * (1 - share) / count)


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_lot_is_drawn_by_what_the_split_says(user: str, sample: str) -> None:
    assert unit_of(split(0.5), user, sample) == user
    by_request = msgspec.structs.replace(split(0.5), assign_by="request")
    assert unit_of(by_request, user, sample) == sample


def test_two_rollouts_assign_independently() -> None:
    units = [f"user-{n}" for n in range(20_000)]
    first = {u for u in units if choose_variant(split(0.5), u).arm == "challenger"}
    both = [u for u in first if choose_variant(split(0.5, rollout="x"), u).arm == "challenger"]
    assert abs(len(both) / len(first) - 0.5) < 0.03


@given(st.text(), st.text(), shares)
def test_the_shadow_is_the_arm_that_did_not_answer(unit: str, sample: str, share: float) -> None:
    now = split(share, shadow=1.0)
    answered = choose_variant(now, unit)
    shadow = choose_shadow(now, answered, sample)
    assert shadow is not None
    assert {answered.arm, shadow.arm} == {"champion", "challenger"}
    assert choose_shadow(split(share, shadow=0.0), answered, sample) is None


def test_shadowed_requests_are_the_share_asked_for_of_either_arm() -> None:
    now = split(0.5, shadow=0.3)
    seen = {"champion": [0, 0], "challenger": [0, 0]}
    for n in range(20_000):
        answered = choose_variant(now, f"u{n}")
        assert answered.arm is not None
        seen[answered.arm][0] += 1
        seen[answered.arm][1] += choose_shadow(now, answered, f"u{n}") is not None
    for requests, shadowed in seen.values():
        assert abs(shadowed / requests - 0.3) < 0.03


def test_without_a_rollout_nothing_is_shadowed() -> None:
    now = TrafficSplit(task="t", champion="a", shadow_share=1.0)
    assert choose_shadow(now, choose_variant(now, "u"), "s") is None
