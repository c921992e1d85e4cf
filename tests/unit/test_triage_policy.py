"""The auto-label certificate: what it accepts, when it does not, and that its bound holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from triage_samples import audited

from flywheel.statistics.proportions import error_bound
from flywheel.triage.config import TriageSettings
from flywheel.triage.policy import AutoLabelPolicy, certify

SETTINGS = TriageSettings(auto_label_error=0.05, auto_label_risk=0.1, min_audits=30)


def test_nothing_is_accepted_before_there_is_evidence() -> None:
    assert not AutoLabelPolicy().accepts(1.0)
    for count in (0, 1, 29, 44):
        policy = certify(audited([0.99] * count, [False] * count), SETTINGS)
        assert policy.threshold is None
        assert not policy.accepts(1.0)
        assert str(count) in policy.reason


def test_a_faultless_release_labels_everything() -> None:
    confidences = np.linspace(0.5, 0.99, 60)
    policy = certify(audited(confidences, [False] * 60), SETTINGS)
    assert policy.accepts(0.01)
    assert (policy.audited, policy.accepted, policy.errors) == (60, 60, 0)
    assert policy.coverage == pytest.approx(1.0)
    assert policy.bound == pytest.approx(1 - 0.1 ** (1 / 60))
    assert policy.reason == "error at most 3.8%: 0 wrong of 60 audits accepted"


def test_mistakes_of_unsure_answers_limit_what_is_accepted() -> None:
    confidences = np.linspace(0.3, 1.0, 400)
    wrong = confidences < 0.55
    policy = certify(audited(confidences, wrong), SETTINGS)
    assert policy.threshold is not None
    assert 0.5 < policy.threshold < 0.56
    assert policy.bound <= SETTINGS.auto_label_error


def test_a_bad_release_gets_nothing_and_hears_why() -> None:
    rng = np.random.default_rng(1)
    policy = certify(audited(rng.random(300), rng.random(300) < 0.3), SETTINGS)
    assert policy.threshold is None
    assert policy.coverage == 0.0
    assert "of 300 audits" in policy.reason


def test_equal_confidences_are_accepted_together_or_not_at_all() -> None:
    # Were the order among equals used, the mistakes that happen to come last could be left out.
    confidences = [0.9] * 100
    wrong = [False] * 90 + [True] * 10
    assert certify(audited(confidences, wrong), SETTINGS).threshold is None


@given(
    st.lists(st.tuples(st.floats(0.3, 1.0), st.booleans()), min_size=45, max_size=150),
    st.sampled_from([0.05, 0.1, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_a_certificate_describes_the_audits_it_accepts(
    rows: list[tuple[float, bool]], limit: float
) -> None:
    audits = audited([c for c, _ in rows], [w for _, w in rows])
    policy = certify(audits, SETTINGS.model_copy(update={"auto_label_error": limit}))
    accepted = [audit for audit in audits if policy.accepts(audit.confidence)]
    assert len(accepted) == policy.accepted
    assert sum(audit.prediction != audit.label for audit in accepted) == policy.errors
    if policy.threshold is not None:
        assert error_bound(policy.errors, policy.accepted, 0.1) == pytest.approx(policy.bound)
        assert policy.bound <= limit
        assert policy.accepted >= len(audits) / 2


def test_new_audits_widen_or_withdraw() -> None:
    good = audited(np.linspace(0.6, 0.99, 100), [False] * 100)
    assert certify(good, SETTINGS).threshold == 0.0
    rng = np.random.default_rng(5)
    broken = audited(rng.uniform(0.6, 0.99, 200), rng.random(200) < 0.2)
    assert certify(good + broken, SETTINGS).threshold is None


def test_many_old_good_audits_do_not_hide_a_drift() -> None:
    old = audited([0.95 + i * 1e-6 for i in range(2000)], [False] * 2000)
    drifted = audited([0.96 + i * 1e-6 for i in range(40)], [i % 4 == 0 for i in range(40)])
    policy = certify(old + drifted, SETTINGS)
    assert policy.threshold is None
    assert "withdrawn: 10 wrong of the latest 50" in policy.reason


def test_a_changed_audit_rate_is_weighed_against_the_release() -> None:
    # While a rollout ran, five times as many audits were drawn; they are less evidence each.
    confidences = np.linspace(0.6, 0.99, 100)
    even = certify(audited(confidences, [False] * 100), SETTINGS)
    mixed_rates = np.where(np.arange(100) % 2, 0.05, 0.25)
    mixed = certify(audited(confidences, [False] * 100, mixed_rates), SETTINGS)
    assert even.threshold is not None
    assert mixed.threshold is not None
    assert mixed.bound > even.bound
    # A mistake among audits that stand for more traffic counts more.
    wrong = np.arange(100) == 41
    rare = certify(audited(confidences, wrong, mixed_rates), TriageSettings(auto_label_error=0.1))
    often = certify(
        audited(confidences, wrong, mixed_rates[::-1].copy()), TriageSettings(auto_label_error=0.1)
    )
    assert rare.bound > often.bound


def test_the_temperature_does_not_move_the_threshold() -> None:
    confidences = np.linspace(0.3, 1.0, 400)
    audits = audited(confidences, confidences < 0.5)
    policy = certify(audits, SETTINGS)
    assert policy.temperature != 1.0
    assert policy.threshold in {audit.confidence for audit in audits}


Model = tuple[Callable[[np.random.Generator, int], np.ndarray], Callable[[np.ndarray], np.ndarray]]


def _mixture(easy: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return np.where(rng.random(n) < easy, rng.beta(30, 1, n), rng.uniform(0.3, 1, n))

    return draw


MODELS: dict[str, Model] = {
    "calibrated": (_mixture(0.6), lambda c: 1 - c),
    "calibrated, experts err": (_mixture(0.8), lambda c: (1 - c) * 0.97 + 0.03),
    "overconfident": (_mixture(0.8), lambda c: np.minimum(1.0, 2.5 * (1 - c))),
    "flat, at the limit": (_mixture(0.7), lambda c: np.full(len(c), 0.051)),
    "flat, above": (_mixture(0.7), lambda c: np.full(len(c), 0.08)),
    "a step": (_mixture(0.5), lambda c: np.where(c > 0.9, 0.03, 0.4)),
    "few confidences": (
        lambda rng, n: rng.choice([0.6, 0.8, 0.9, 0.95, 0.99], n),
        lambda c: (1 - c) * 0.8,
    ),
    "wrong way at the top": (
        _mixture(0.7),
        lambda c: np.where(c > 0.985, 0.15, 0.3 * (1 - c)),
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [60, 250])
@pytest.mark.parametrize("rates", ["one rate", "two rates"])
def test_the_error_of_what_is_accepted_stays_in_bounds(name: str, count: int, rates: str) -> None:
    """Over many draws of the audits, the accepted set is worse than the limit at most as often as
    the risk says (plus three standard errors of the simulation)."""
    draw, error = MODELS[name]
    rng = np.random.default_rng([count, *name.encode()])
    traffic = draw(rng, 20_000)
    errors = error(traffic)
    runs = 200
    broken = 0
    for _ in range(runs):
        confidences = draw(rng, count)
        wrong = rng.random(count) < error(confidences)
        inclusion = np.full(count, 0.05)
        if rates == "two rates":
            inclusion[rng.random(count) < 0.6] = 0.25
        policy = certify(audited(confidences, wrong, inclusion), SETTINGS)
        if policy.threshold is not None:
            accepted = traffic > policy.threshold
            broken += bool(errors[accepted].mean() > SETTINGS.auto_label_error)
    risk = SETTINGS.auto_label_risk
    assert broken / runs <= risk + 3 * np.sqrt(risk * (1 - risk) / runs)
