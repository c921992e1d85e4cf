"""Token buckets and keys."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.errors import RequestError, TooManyRequests, Unauthorised
from flywheel.gateway.auth import Caller, Keys
from flywheel.gateway.limits import SourceLimits


@given(st.floats(0.1, 100), st.integers(1, 50), st.lists(st.floats(0, 5), max_size=100))
def test_never_more_than_burst_and_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    now = 0.0
    limits = SourceLimits(rate, burst, clock=lambda: now)
    taken = 0
    for gap in gaps:
        now += gap
        with suppress(TooManyRequests):
            limits.take("s")
            taken += 1
        assert taken <= burst + rate * now + 1e-6


def test_waiting_as_told_is_enough() -> None:
    now = 0.0
    limits = SourceLimits(2.0, 1, clock=lambda: now)
    limits.take("s")
    with pytest.raises(TooManyRequests) as refused:
        limits.take("s")
    now += refused.value.retry_after
    limits.take("s")


def test_sources_are_counted_apart_and_forgotten_in_time() -> None:
    limits = SourceLimits(0.001, 1, clock=lambda: 0.0, max_sources=10)
    for number in range(100):
        limits.take(f"s{number}")
    with pytest.raises(TooManyRequests):
        limits.take("s99")
    limits.take("s0")


def test_a_key_names_its_caller_without_showing_itself() -> None:
    keys = Keys(["one", "two"])
    first = keys.identify({"authorization": "Bearer one"})
    assert first == keys.identify({"authorization": "bearer one"})
    assert first != keys.identify({"authorization": "Bearer two"})
    assert "one" not in first.source


def test_the_limit_follows_the_key_whatever_source_is_named() -> None:
    keys = Keys(["one"])
    plain = keys.identify({"authorization": "Bearer one"})
    named = keys.identify({"authorization": "Bearer one", "x-flywheel-source": "shop"})
    assert named == Caller("shop", plain.limited_as, plain.key)


@pytest.mark.parametrize("header", ["", "one", "Basic one", "Bearer", "Bearer three", "Bearer ü"])
def test_anything_else_is_refused(header: str) -> None:
    with pytest.raises(Unauthorised):
        Keys(["one"]).identify({"authorization": header})


@pytest.mark.parametrize("source", ["", "x" * 65, "a\nb"])
def test_odd_source_names_are_refused(source: str) -> None:
    with pytest.raises(RequestError):
        Keys().identify({"x-flywheel-source": source})
