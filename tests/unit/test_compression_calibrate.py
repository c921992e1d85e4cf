"""Temperature: found where there is evidence, near 1 where there is little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.compression.calibrate import PRIOR_TEMPERATURE, fit_temperature, mean_nll


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
    assert 1.0 < fit_temperature(sure, [0, 0, 1]) < PRIOR_TEMPERATURE
    assert PRIOR_TEMPERATURE < fit_temperature(sure, [0, 1, 1]) < 4.0
    assert fit_temperature(np.zeros((0, 2)), []) == PRIOR_TEMPERATURE


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0.3, 4), st.integers(0, 99), st.floats(-50, 50))
def test_a_constant_changes_nothing_and_the_fit_pays(
    count: int, temperature: float, seed: int, shift: float
) -> None:
    logits, targets = draw(count, temperature, seed)
    found = fit_temperature(logits, targets)
    assert fit_temperature(logits + shift, targets) == pytest.approx(found, rel=1e-3)

    def cost(candidate: float) -> float:
        prior = np.log(candidate / PRIOR_TEMPERATURE) ** 2 / (2 * 0.3**2)
        return float(mean_nll(logits, targets, candidate) * count + prior)

    assert cost(found) <= min(cost(1.0), cost(PRIOR_TEMPERATURE), cost(found * 1.2)) + 1e-6
