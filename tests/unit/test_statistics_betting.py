"""Betting on paired differences: algebra by property, its guarantee exactly and simulated."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.statistics.betting import (
    PairedEvidence,
    checkpoints,
    highest_log_capital,
    log_capital,
    relative_weights,
)

DIFFERENCES = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=80)


@pytest.mark.parametrize("boundary", [-0.1, 0.0, 0.3])
@pytest.mark.parametrize("equal", [0.0, 0.4])
def test_at_the_boundary_the_capital_is_kept_on_average(boundary: float, equal: float) -> None:
    chances = {1.0: (1 - equal + boundary) / 2, 0.0: equal, -1.0: (1 - equal - boundary) / 2}
    values = np.array(list(chances))
    mean = 0.0
    for drawn in product(range(3), repeat=6):
        counts = np.bincount(drawn, minlength=3).astype(float)
        chance = math.prod(chances[values[one]] for one in drawn)
        mean += chance * math.exp(float(log_capital(counts[None], values, np.ones(3), boundary)[0]))
    assert mean == pytest.approx(1.0)


def test_weights_are_relative_to_what_was_least_likely_drawn() -> None:
    assert relative_weights(np.array([0.1, 0.5])).tolist() == [1.0, pytest.approx(0.2)]
    assert relative_weights(np.zeros(0)).tolist() == []


@given(DIFFERENCES)
def test_the_interval_holds_the_mean_and_shrinks_with_alpha(d: list[int]) -> None:
    seen = PairedEvidence(np.array(d, float))
    low, high = seen.interval(0.05)
    wide_low, wide_high = seen.interval(0.001)
    assert -1 <= wide_low <= low <= high <= wide_high <= 1
    assert low <= seen.mean + 1e-3
    assert high >= seen.mean - 1e-3


@given(st.lists(st.lists(st.integers(0, 400), min_size=3, max_size=3)), st.floats(-0.9, 0.9))
def test_the_highest_capital_is_that_of_all_looks(counts: list[list[int]], at: float) -> None:
    looks = np.array(counts, float).reshape(len(counts), 3)
    values, weights = np.array([-1.0, 0.0, 1.0]), np.array([1.0, 0.5, 0.25])
    every = log_capital(looks, values, weights, at) if counts else np.array([-math.inf])
    assert highest_log_capital(looks, values, weights, at) == every.max()


@given(DIFFERENCES, st.floats(-0.5, 0.0))
def test_harm_is_proven_exactly_when_the_sequence_once_excluded_the_boundary(
    d: list[int], boundary: float
) -> None:
    seen = PairedEvidence(np.array(d, float))
    _, high = seen.interval(0.05)
    if high < boundary - 1e-3:
        assert seen.harm(boundary) >= math.log(1 / 0.05)
    if high > boundary + 1e-3:
        assert seen.harm(boundary) < math.log(1 / 0.05)


@given(DIFFERENCES)
def test_one_more_bad_pair_never_lowers_the_evidence_of_harm(d: list[int]) -> None:
    before = PairedEvidence(np.array(d, float)).harm(0.0)
    after = PairedEvidence(np.array([*d, -1], float)).harm(0.0)
    assert after >= before - 1e-9


def test_weighted_bets_keep_their_guarantee_when_a_stratum_is_sampled_more() -> None:
    # Over the traffic the arms are equal; the stratum sampled four times as often is where the
    # challenger loses. Unweighted, this would look like harm.
    rng = np.random.default_rng(14)
    hits = 0
    for _ in range(200):
        hard = rng.random(600) < 0.8  # traffic 50/50, sampled 4:1
        u = rng.random(600)
        d = np.where(hard, np.where(u < 0.3, -1.0, 0.0), np.where(u < 0.3, 1.0, 0.0))
        w = np.where(hard, 0.25, 1.0)
        hits += PairedEvidence(d, w).harm(0.0) >= math.log(20)
        assert PairedEvidence(d).harm(0.0) >= math.log(20)
    assert hits / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_a_late_look_is_at_its_very_pair() -> None:
    # 12,345 is no checkpoint: only there, after the last pair, is the capital highest.
    d = np.concatenate([np.tile([-1.0, 1.0], 6000), np.ones(345)])
    whole = log_capital(np.array([[6000.0, 6345.0]]), np.array([-1.0, 1.0]), np.ones(2), -0.05)
    assert 12_345 not in checkpoints(12_345)
    assert PairedEvidence(d).first(12_345).proof(-0.05) == pytest.approx(whole[0])


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60), st.integers(1, 9000))
def test_harm_once_proven_stays_proven_as_pairs_come(start: list[int], more: int) -> None:
    before = PairedEvidence(np.array(start, float)).harm(0.0)
    after = PairedEvidence(np.concatenate([start, np.ones(more)])).harm(0.0)
    assert after >= before - 1e-9


def test_a_proof_of_harm_between_checkpoints_is_found_within_a_thousandth_more_pairs() -> None:
    for n in (1999, 2001, 5003, 100_001):
        looks = checkpoints(n)
        assert looks[0] == 1
        assert n - looks[-1] <= n / 1000
        assert np.isin(checkpoints(n - 1), looks).all()
    assert len(checkpoints(1_000_000)) < 10_000
