"""Intervals and bounds of one proportion, against exact sums and simulated coverage."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from flywheel.statistics.proportions import (
    bounded,
    chance_of_as_many,
    error_bound,
    error_bounds,
    least_count,
    wilson_interval,
)


@pytest.mark.parametrize("count", [20, 100])
def test_the_bound_is_below_the_rate_as_rarely_as_it_says(count: int) -> None:
    bounds = error_bounds(np.arange(count + 1.0), np.full(count + 1, float(count)), 0.1)
    for rate in np.linspace(0.01, 0.99, 99):
        assert binom.pmf(np.flatnonzero(bounds < rate), count, rate).sum() <= 0.1 + 1e-9


@settings(deadline=None)
@given(st.floats(0, 300), st.floats(0, 300), st.floats(0.01, 0.5), st.floats(0.01, 0.4))
def test_bounded_says_what_the_bound_says(
    errors: float, right: float, limit: float, risk: float
) -> None:
    count = np.array([errors + right])
    bound = float(error_bounds(np.array([errors]), count, risk)[0])
    if abs(bound - limit) > 1e-9:
        assert bounded(np.array([errors]), count, limit, risk)[0] == (bound <= limit)


def test_as_many_errors_are_counted_with_the_number_itself() -> None:
    assert chance_of_as_many(0, 50, 0.05) == 1.0
    assert chance_of_as_many(3, 50, 0.05) == pytest.approx(binom.sf(2, 50, 0.05))


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.6, 0.999))
def test_an_interval_holds_its_estimate_and_narrows(right: int, more: int, level: float) -> None:
    total = right + more
    low, high = wilson_interval(right, total, level)
    assert 0 <= low <= high <= 1
    if total:
        assert low <= right / total <= high
        tighter = wilson_interval(right * 4, total * 4, level)
        assert tighter[1] - tighter[0] < high - low


def test_an_interval_covers_as_often_as_it_says() -> None:
    chance = random.Random(1)
    for share in (0.5, 0.8, 0.95):
        covered = 0
        for _ in range(2000):
            right = sum(chance.random() < share for _ in range(60))
            low, high = wilson_interval(right, 60, 0.95)
            covered += low <= share <= high
        assert 0.92 <= covered / 2000 <= 0.98


def test_the_bound_is_clopper_pearsons() -> None:
    assert error_bound(3, 100, 0.1) == pytest.approx(beta.ppf(0.9, 4, 97))
    assert binom.cdf(3, 100, error_bound(3, 100, 0.1)) == pytest.approx(0.1)
    assert error_bound(0, 0, 0.1) == error_bound(5, 5, 0.1) == 1.0


@given(st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_the_least_count_is_the_least(error: float, risk: float) -> None:
    count = least_count(error, risk)
    assert error_bound(0, count, risk) <= error + 1e-9
    assert count == 1 or error_bound(0, count - 1, risk) > error - 1e-9
