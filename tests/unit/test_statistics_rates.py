"""Rates of two arms: the interval agrees with the tests, and evidence is fair where nothing is."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from flywheel.statistics.rates import (
    bounds,
    log_e_by_step,
    log_e_difference,
    log_e_rate,
)

counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_evidence_on_a_rate_is_no_more_than_one_on_average(rate: float, above: bool) -> None:
    events = np.arange(81)
    evidence = np.exp(log_e_rate(events, 80, rate, above=above))
    assert (binom.pmf(events, 80, rate) * evidence).sum() <= 1 + 1e-9


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize(("first", "difference"), [(0.05, 0.0), (0.1, 0.2), (0.6, -0.3)])
def test_evidence_on_a_difference_is_no_more_than_one_on_average(
    first: float, difference: float, above: bool
) -> None:
    x0, x1 = np.meshgrid(np.arange(31), np.arange(21), indexing="ij")
    chance = binom.pmf(x0, 30, first) * binom.pmf(x1, 20, first + difference)
    evidence = np.exp(log_e_difference(x0, 30, x1, 20, difference, above=above))
    assert (chance * evidence).sum() <= 1 + 1e-9


@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_the_error_interval_agrees_with_the_tests(n0: int, n1: int, data: st.DataObject) -> None:
    x0, x1 = data.draw(st.integers(0, n0)), data.draw(st.integers(0, n1))
    need, seen = math.log(2 / 0.05), x1 / n1 - x0 / n0
    evidence = partial(log_e_difference, x0, n0, x1, n1)
    low, high = bounds(partial(evidence, above=True), partial(evidence, above=False), seen, need)
    assert -1 <= low <= seen <= high <= 1
    if high < 0.98:
        beyond = log_e_difference(x0, n0, x1, n1, high + 0.01, above=False)
        assert float(beyond) >= need
    if low > -0.98:
        assert float(log_e_difference(x0, n0, x1, n1, low - 0.01, above=True)) >= need


@given(counts, counts, st.booleans())
def test_one_step_is_compared_as_arms_without_steps_are(
    old: tuple[int, int], new: tuple[int, int], above: bool
) -> None:
    columns = [np.array([value]) for value in (*old, *new)]
    whole = float(log_e_difference(*old, *new, 0.02, above=above))
    assert float(log_e_by_step(*columns, 0.02, above=above)) == pytest.approx(whole)
    # A step in which only one arm was asked adds nothing, and takes nothing.
    more = [np.append(column, extra) for column, extra in zip(columns, (3, 9, 0, 0), strict=True)]
    assert float(log_e_by_step(*more, 0.02, above=above)) == pytest.approx(whole)
