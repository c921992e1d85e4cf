"""The guarantees of the tests, by simulation, and their algebra by property."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_memory import arm, pairs

from flywheel.rollout.analysis import simulation
from flywheel.rollout.analysis.evidence import Facts, differences
from flywheel.rollout.analysis.latency import by_step, of_arm
from flywheel.rollout.analysis.promotion import promotion_checks
from flywheel.rollout.analysis.simulation import Pairs, independent
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.plan import look_sizes
from flywheel.rollout.ports import Pair
from flywheel.statistics.betting import PairedEvidence
from flywheel.statistics.quantiles import log_e_slower

SETTINGS = RolloutSettings()


def within(hits: np.ndarray, rate: float) -> bool:
    """Whether a simulated share of hits is compatible (3 standard errors) with at most rate."""
    n = len(hits)
    return float(np.isfinite(hits).mean()) <= rate + 3 * math.sqrt(rate * (1 - rate) / n)


def test_equal_arms_are_rolled_back_less_often_than_harm_alpha_at_continuous_looks() -> None:
    n = 400
    accuracy, _ = simulation.accuracy(SETTINGS, independent(0.8, 0.8), n, 1000, 1)
    errors, _ = simulation.errors(SETTINGS, (0.02, 0.02), n, 3000, 0.25, 2)
    slow, _ = simulation.slowness(SETTINGS, 1.0, 60, 800, 0.25, 3)
    slow = np.resize(slow, n)
    any_harm = np.minimum(np.minimum(accuracy, errors), slow)
    assert within(any_harm, SETTINGS.harm_alpha)


def test_harm_alpha_holds_exactly_where_the_arms_are_equal_and_differ_often() -> None:
    accuracy, _ = simulation.accuracy(SETTINGS, Pairs(0.5, 0.5), 2000, 1000, 4)
    assert within(accuracy, SETTINGS.harm_alpha / 3)


def test_errors_at_exactly_the_margin_are_rarely_called_harm_or_proven_harmless() -> None:
    harm, proof = simulation.errors(SETTINGS, (0.01, 0.03), 1000, 4000, 0.5, 5)
    assert within(harm, SETTINGS.harm_alpha / 3)
    assert within(proof, SETTINGS.promote_alpha)


def test_latency_at_exactly_the_margin_is_rarely_called_harm_or_proven_harmless() -> None:
    harm, proof = simulation.slowness(SETTINGS, SETTINGS.latency_margin, 80, 1000, 0.5, 6)
    assert within(harm, SETTINGS.harm_alpha / 3)
    assert within(proof, SETTINGS.promote_alpha)


def test_a_broken_challenger_is_found_within_a_few_dozen_pairs() -> None:
    harm, proof = simulation.accuracy(SETTINGS, independent(0.85, 0.15), 1000, 300, 7)
    assert np.isfinite(harm).all()
    assert np.median(harm) <= 20
    assert np.quantile(harm, 0.99) <= 40
    assert not np.isfinite(proof).any()


def test_failing_and_slow_challengers_are_found() -> None:
    harm, _ = simulation.errors(SETTINGS, (0.0, 0.5), 200, 400, 0.25, 8)
    assert np.quantile(harm, 0.95) <= 20
    harm, _ = simulation.slowness(SETTINGS, 4.0, 30, 1200, 0.25, 9)
    assert np.isfinite(harm).mean() >= 0.9


@pytest.mark.parametrize(("better", "power"), [(0.08, 0.85), (0.10, 0.9)])
def test_a_better_challenger_is_proven_with_about_120_pairs(better: float, power: float) -> None:
    _, proof = simulation.accuracy(SETTINGS, Pairs(0.04 + better, 0.04), 1000, 140, 10)
    assert np.isfinite(proof).mean() >= power


@pytest.mark.parametrize("discordance", [0.05, 0.1, 0.2, 0.5, 1.0])
def test_at_exactly_the_margin_promotion_is_rarer_than_promote_alpha(discordance: float) -> None:
    margin = SETTINGS.accuracy_margin
    worse = Pairs((discordance - margin) / 2, (discordance + margin) / 2)
    _, proof = simulation.accuracy(SETTINGS, worse, 3000, 300, 11)
    assert within(proof, SETTINGS.promote_alpha)


def test_assignment_is_called_broken_when_it_is() -> None:
    fair = simulation.mismatches(0.05, 0.05, 1000, 2000, 12)
    assert within(fair, 0.001)
    broken = simulation.mismatches(0.05, 0.10, 200, 2000, 13)
    assert np.isfinite(broken).mean() >= 0.95


def test_looks_are_fixed_and_rise() -> None:
    assert look_sizes(SETTINGS) == (60, 90, 135, 201, 300)
    assert look_sizes(RolloutSettings(looks=1, min_labels=40)) == (40,)
    many = look_sizes(RolloutSettings(looks=50, min_labels=2))
    assert list(many) == sorted(set(many))
    assert len(many) == 50


def test_unequal_inclusion_probabilities_are_weighted_by_their_inverse() -> None:
    few, many = pairs([-1, 1], 0.1), pairs([1, -1], 0.5)
    d, w = differences([*few, *many])
    assert w.tolist() == [1.0, 1.0, pytest.approx(0.2), pytest.approx(0.2)]
    seen = PairedEvidence(d, w)
    assert seen.mean == pytest.approx(0.0)
    assert not seen.equally_likely


def test_no_latency_claim_without_both_arms() -> None:
    assert log_e_slower(by_step(arm(0), arm(50, ms=900)), 1.5) == 0
    assert log_e_slower(by_step(arm(500), arm(0)), 1.5) == 0
    assert of_arm(arm(0)).quantile(0.95) is None


def test_a_weighted_proof_made_at_a_scheduled_look_stays_however_many_pairs_follow() -> None:
    # Past two thousand pairs not every look is kept; the scheduled ones must be.
    good = [*pairs([1] * 40, 0.5), *pairs([1] * 20, 0.25)]
    proven = "at the look at 60 audited samples"
    for more in (0, 1, 1939, 1940, 1941, 1977, 2345, 3940, 6000):
        seen = [*good, *pairs([-1, 0] * (more // 2) + [0] * (more % 2), 0.25)]
        paired = PairedEvidence(*differences(seen))
        check = promotion_checks(Facts(pairs=tuple(seen)), paired, SETTINGS)[0]
        assert check.outcome == "passed", more
        assert proven in check.words


@given(
    st.lists(st.sampled_from([-1, 0, 1]), min_size=4, max_size=30),
    st.lists(st.sampled_from([-1, 0, 1]), max_size=30),
    st.sampled_from([0.05, 0.25, 0.5]),
)
def test_what_a_look_said_does_not_depend_on_later_pairs(
    first: list[int], later: list[int], rate: float
) -> None:
    # Also where the audit rate is changed after the look.
    settings = RolloutSettings(
        looks=3, min_labels=4, accuracy_margin=0.5, promote_alpha=0.4, harm_margin=0.0
    )
    before, after = pairs(first, 0.25), [*pairs(first, 0.25), *pairs(later, rate)]

    def passed(seen: list[Pair]) -> bool:
        paired = PairedEvidence(*differences(seen))
        return promotion_checks(Facts(pairs=tuple(seen)), paired, settings)[0].outcome == "passed"

    if passed(before):
        assert passed(after)
