"""Temperature: found where there is evidence, near the prior where there is little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.compression.calibrate import PRIOR, fit_temperature
from flywheel.statistics import calibration
from flywheel.statistics.calibration import Prior, mean_nll
from flywheel.triage import calibration as triage_calibration


def draw(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Logits that are ``temperature`` times too sure, and targets drawn from the honest ones."""
    chance = np.random.default_rng(seed)
    honest = chance.normal(size=(count, 4)) * 2
    odds = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    targets = [int(chance.choice(4, p=row)) for row in odds]
    return honest * temperature, targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_overconfident_logits_is_found(temperature: float) -> None:
    logits, targets = draw(4000, temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.1)


def test_few_samples_keep_it_near_the_prior_and_none_at_it() -> None:
    sure = np.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    assert 1.0 < fit_temperature(sure, [0, 0, 1]) < PRIOR.temperature
    assert PRIOR.temperature < fit_temperature(sure, [0, 1, 1]) < 4.0
    assert fit_temperature(np.zeros((0, 2)), []) == PRIOR.temperature


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0.3, 4), st.integers(0, 99), st.floats(-50, 50))
def test_a_constant_changes_nothing_and_the_fit_pays(
    count: int, temperature: float, seed: int, shift: float
) -> None:
    logits, targets = draw(count, temperature, seed)
    found = fit_temperature(logits, targets)
    assert fit_temperature(logits + shift, targets) == pytest.approx(found, rel=1e-3)

    def cost(candidate: float) -> float:
        prior = np.log(candidate / PRIOR.temperature) ** 2 / (2 * 0.3**2)
        return float(mean_nll(logits, targets, candidate) * count + prior)

    assert cost(found) <= min(cost(1.0), cost(PRIOR.temperature), cost(found * 1.2)) + 1e-6


@pytest.mark.parametrize("prior", [PRIOR, Prior(1.0, 0.5, -1.6, 1.6)])
@pytest.mark.parametrize("count", [1, 30, 400])
def test_the_fit_is_the_most_probable_of_a_fine_grid(prior: Prior, count: int) -> None:
    logits, targets = draw(count, 1.7, count)
    grid = np.linspace(prior.least, prior.most, 20_001)
    costs = [
        mean_nll(logits, targets, float(np.exp(t))) * count
        + (t - np.log(prior.temperature)) ** 2 / (2 * prior.spread**2)
        for t in grid
    ]
    truth = logits[np.arange(count), targets]
    fitted = calibration.fit_temperature(logits, truth, prior)
    assert np.log(fitted) == pytest.approx(grid[int(np.argmin(costs))], abs=4e-4)


def test_a_right_label_that_was_not_offered_makes_less_sure() -> None:
    logits, targets = draw(50, 1.0)
    truth = logits[np.arange(50), targets]
    fitted = calibration.fit_temperature(logits, truth, PRIOR)
    padded = np.hstack([logits, np.full((50, 2), -np.inf)])
    assert calibration.fit_temperature(padded, truth, PRIOR) == pytest.approx(fitted)
    truth[0] = -20.0
    assert calibration.fit_temperature(logits, truth, PRIOR) > fitted


@pytest.mark.parametrize("prior", [PRIOR, triage_calibration.PRIOR])
def test_another_search_finds_the_same_temperature(prior: Prior) -> None:
    golden = (5**0.5 - 1) / 2
    for seed, count in enumerate((1, 5, 60, 500)):
        logits, targets = draw(count, 1.4, seed)
        truth = logits[np.arange(count), targets]

        def cost(t: float, logits: np.ndarray = logits, targets: list[int] = targets) -> float:
            prior_cost = (t - np.log(prior.temperature)) ** 2 / (2 * prior.spread**2)
            return mean_nll(logits, targets, float(np.exp(t))) * len(targets) + prior_cost

        low, high = prior.least, prior.most
        for _ in range(45):
            left, right = high - golden * (high - low), low + golden * (high - low)
            low, high = (low, right) if cost(left) <= cost(right) else (left, high)
        fitted = calibration.fit_temperature(logits, truth, prior, 1e-9)
        assert fitted == pytest.approx(np.exp((low + high) / 2), abs=2e-6)
