"""The exact paired test: its size, its bound and its power, counted over all outcomes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from flywheel.compression.compare import verdict
from flywheel.evaluation.config import GateSettings
from flywheel.evaluation.gate import decide
from flywheel.kinds.predictions import Prediction
from flywheel.rollout.analysis.simulation import critical_score
from flywheel.statistics.noninferiority import exact_p, lower_bound, no_worse, score
from flywheel.statistics.sample_size import holdout_advice, power, samples_needed

ALPHA = 0.05
MARGINS = (0.01, 0.02, 0.05)


def passing(n: int, margin: float) -> np.ndarray:
    """For each number of fixed samples the most broken ones that pass, or −1."""
    least = critical_score(n, margin, ALPHA)
    fixed, broken = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    passes = (score(fixed, broken, n, margin) >= least - 1e-9) & (fixed + broken <= n)
    # More broken samples never help, so that what passes is a prefix of each row.
    assert (np.diff(passes.astype(int), axis=1) <= 0).all()
    return passes.sum(axis=1) - 1


def passed_at_the_margin(n: int, margin: float, discordances: np.ndarray) -> np.ndarray:
    """The chance that a release which loses exactly the margin passes, over every outcome."""
    most, fixed = passing(n, margin), np.arange(n + 1)
    psi = discordances[:, None]
    p_fixed, p_broken = (psi - margin) / 2, (psi + margin) / 2
    rate = np.clip(p_broken / (1 - p_fixed), 0, 1)
    chance = binom.pmf(fixed, n, p_fixed) * binom.cdf(most, n - fixed, rate)
    return chance.sum(axis=1)


def discordances(margin: float, many: int) -> np.ndarray:
    """From the smallest possible to 1, denser towards both ends."""
    return margin + (1 - margin) * np.sin(np.linspace(0, np.pi / 2, many)) ** 2


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("n", [50, 83, 191, 300, 1000])
def test_at_the_margin_at_most_one_in_twenty_passes(n: int, margin: float) -> None:
    found = passed_at_the_margin(n, margin, discordances(margin, 701))
    assert found.max() <= ALPHA + 1e-6
    # The whole level is used where outcomes are fine enough to.
    assert found.max() > 0.03


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("margin", MARGINS)
def test_at_the_margin_at_most_one_in_twenty_passes_for_every_size(margin: float) -> None:
    for n in [*range(50, 200, 3), *range(200, 1001, 20)]:
        found = passed_at_the_margin(n, margin, discordances(margin, 1501))
        assert found.max() <= ALPHA + 1e-6, (n, found.max())


def answers(right: list[bool]) -> list[Prediction]:
    return [
        Prediction(
            sample_id=f"s{n}", label="a", prediction="a" if ok else "b", scores={}, reported=1.0
        )
        for n, ok in enumerate(right)
    ]


@pytest.mark.parametrize("n", [191, 240, 300, 522])
def test_the_gate_passes_at_most_one_in_twenty_that_lose_the_margin(n: int) -> None:
    """Where every sample that differs is a broken one: the hardest case for a rough bound."""
    margin = 0.02
    champion = answers([True] * n)
    passed = 0.0
    for broken in range(n):
        challenger = answers([index >= broken for index in range(n)])
        if not decide(champion, challenger, GateSettings(max_regression=margin)).passed:
            break
        passed += binom.pmf(broken, n, margin)
    assert 0 < passed <= ALPHA


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 300), st.sampled_from(MARGINS))
def test_gate_and_compression_say_the_same_of_the_same_answers(
    fixed: int, broken: int, same: int, margin: float
) -> None:
    champion = answers([False] * fixed + [True] * (broken + same))
    challenger = answers([True] * fixed + [False] * broken + [True] * same)
    gate = decide(champion, challenger, GateSettings(max_regression=margin))
    n = fixed + broken + same
    standing, _ = verdict(fixed, broken, n, margin, 0.5)
    assert gate.passed == (standing == "equal") == (exact_p(fixed, broken, n, margin) <= ALPHA)
    assert gate.difference_low is not None
    assert gate.passed == (gate.difference_low >= -margin)


@given(st.integers(1, 60), st.data(), st.sampled_from([0.02, 0.05, 0.1]))
def test_the_score_rises_with_wins_and_falls_with_losses(
    n: int, data: st.DataObject, margin: float
) -> None:
    a = data.draw(st.integers(0, n - 1))
    b = data.draw(st.integers(0, n - 1 - a))
    here = float(score(a, b, n, margin))
    assert float(score(a + 1, b, n, margin)) > here
    assert float(score(a, b + 1, n, margin)) < here


@pytest.mark.parametrize(("a", "b", "n"), [(0, 0, 60), (3, 1, 40), (10, 9, 80), (0, 5, 30)])
def test_the_exact_p_value_is_the_sum_over_all_outcomes_as_extreme(a: int, b: int, n: int) -> None:
    margin = 0.05
    x, y = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    inside = x + y <= n
    x, y = x[inside], y[inside]
    extreme = score(x, y, n, margin) >= float(score(a, b, n, margin)) - 1e-9
    x, y = x[extreme], y[extreme]
    log_factorial = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    choose = log_factorial[n] - log_factorial[x] - log_factorial[y] - log_factorial[n - x - y]
    worst = 0.0
    for psi in np.linspace(margin + 1e-9, 1 - 1e-9, 400):
        plus, minus = (psi - margin) / 2, (psi + margin) / 2
        logs = choose + x * math.log(plus) + y * math.log(minus) + (n - x - y) * math.log(1 - psi)
        worst = max(worst, float(np.exp(logs).sum()))
    assert exact_p(a, b, n, margin) == pytest.approx(worst, rel=0.02)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 200))
def test_the_lower_bound_lies_below_the_difference(a: int, b: int, same: int) -> None:
    n = a + b + same
    if n:
        assert -1 <= lower_bound(a, b, n, 0.01) <= (a - b) / n + 1e-9


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 200))
def test_the_bound_is_where_the_test_stops_refuting(a: int, b: int, same: int) -> None:
    n = a + b + same
    if not n:
        return
    bound = lower_bound(a, b, n, ALPHA)
    if bound > -1:
        assert exact_p(a, b, n, -bound) <= ALPHA
        assert exact_p(a, b, n, min(-bound - 1e-3, 1 - 1e-9)) > ALPHA * 0.9
    assert no_worse(a, b, n, 0.05, ALPHA).passed == (no_worse(a, b, n, 0.05, ALPHA).p <= ALPHA)


def test_nothing_that_differs_bounds_the_loss_by_the_rule_of_three() -> None:
    assert lower_bound(0, 0, 1000, ALPHA) == pytest.approx(math.log(ALPHA) / 1000, rel=0.01)
    assert not no_worse(0, 0, 148, 0.02, ALPHA).passed
    assert no_worse(0, 0, 149, 0.02, ALPHA).passed
    assert not no_worse(0, 0, 0, 0.02, ALPHA).passed


@pytest.mark.parametrize(("discordance", "margin"), [(0.0, 0.02), (0.05, 0.05), (0.02, 0.02)])
def test_from_the_advised_size_on_an_equal_release_passes(
    discordance: float, margin: float
) -> None:
    n = samples_needed(discordance, margin, ALPHA)
    assert n is not None
    rng = np.random.default_rng(5)
    half = discordance / 2
    for size, least, most in ((n, 0.75, 1.0), (round(n * 0.8), 0.0, 0.8)):
        drawn = rng.multinomial(size, [half, half, 1 - discordance], size=250)
        share = np.mean([exact_p(int(a), int(b), size, margin) <= ALPHA for a, b, _ in drawn])
        assert least <= share <= most
        counted = power(size, margin, ALPHA, half, half)
        assert share == pytest.approx(counted, abs=3.5 * math.sqrt(0.25 / 250))


def test_power_is_counted_over_every_outcome() -> None:
    n, margin, fixed, broken = 300, 0.05, 0.03, 0.05
    most, a = passing(n, margin), np.arange(n + 1)
    by_hand = binom.pmf(a, n, fixed) * binom.cdf(most, n - a, broken / (1 - fixed))
    assert power(n, margin, ALPHA, fixed, broken) == pytest.approx(by_hand.sum(), abs=5e-3)


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("discordance", [0.005, 0.02, 0.05, 0.1])
def test_the_advised_size_is_about_right_where_it_is_a_formula_too(
    discordance: float, margin: float
) -> None:
    n = samples_needed(discordance, margin, ALPHA)
    assert n is not None
    half = discordance / 2
    # Where hardly any differ, one sample more can bring a tenth more of power.
    assert 0.76 <= power(n, margin, ALPHA, half, half) <= 0.9


def test_the_gate_says_how_large_a_holdout_an_equal_release_needs() -> None:
    champion = answers([True] * 293 + [False] * 7)
    challenger = answers([False] * 7 + [True] * 293)
    said = decide(champion, challenger, GateSettings(max_regression=0.02)).reason
    needed = samples_needed(14 / 300, 0.02, ALPHA)
    assert f"passes in 80% of cases from about {needed:,} held-out samples on" in said
    assert "this holdout has 300" in said
    assert "which this holdout has" in holdout_advice(7, 7, 3000, 0.02, ALPHA)
    assert "no holdout shows" in holdout_advice(7, 7, 300, 0.0, ALPHA)
