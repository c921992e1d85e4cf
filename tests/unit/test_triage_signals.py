"""How unsure an answer is, and the temperature that says so honestly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from triage_samples import audited

from flywheel.kinds.signals import recalibrated, signals
from flywheel.triage.calibration import fit_temperature
from flywheel.triage.history import with_history

scores = st.dictionaries(
    st.sampled_from("ABCDEF"), st.floats(0, 1, allow_nan=False), min_size=1, max_size=6
)


@given(scores, st.floats(0.2, 5))
def test_signals_stay_in_range_and_name_every_label(
    given_scores: dict[str, float], t: float
) -> None:
    said = signals(given_scores, t)
    for value in (said.confidence, said.margin, said.entropy, said.score):
        assert 0.0 <= value <= 1.0 + 1e-9
    assert {label for label, _ in said.ranked} == set(given_scores)
    assert sum(p for _, p in said.ranked) == pytest.approx(1.0)


def test_the_score_runs_from_certain_to_a_coin_toss() -> None:
    assert signals({"A": 1.0, "B": 0.0, "C": 0.0}).score == pytest.approx(0.0)
    assert signals({"A": 1 / 3, "B": 1 / 3, "C": 1 / 3}).score == pytest.approx(1.0)
    close, clear = {"A": 0.5, "B": 0.49, "C": 0.01}, {"A": 0.5, "B": 0.25, "C": 0.25}
    assert signals(close).margin < signals(clear).margin
    assert signals(close).entropy < signals(clear).entropy


@given(scores, st.floats(0.2, 5))
def test_recalibrating_keeps_the_order_of_labels(given_scores: dict[str, float], t: float) -> None:
    after = recalibrated(given_scores, t)
    for one, p in given_scores.items():
        for other, q in given_scores.items():
            if p > q:
                assert after[one] >= after[other]


def test_the_temperature_of_an_overconfident_release_is_found() -> None:
    rng = np.random.default_rng(3)
    honest = rng.uniform(0.5, 0.99, 4000)
    wrong = rng.random(4000) > honest
    said = [recalibrated({"LOC": p, "NUM": 1 - p}, 0.5)["LOC"] for p in honest]
    assert fit_temperature(audited(said, wrong)) == pytest.approx(2.0, rel=0.15)
    assert fit_temperature(audited(honest, wrong)) == pytest.approx(1.0, rel=0.1)


def test_few_audits_move_the_temperature_little() -> None:
    assert fit_temperature([]) == 1.0
    one_mistake = fit_temperature(audited([0.99], [True]))
    assert 1.0 < one_mistake < math.e


@given(
    st.floats(0, 1),
    st.floats(0, 1000),
    st.floats(0, 1000),
)
def test_corrections_only_raise_the_score(score: float, labels: float, corrections: float) -> None:
    raised = with_history(score, {"expert_labels": labels, "corrections": corrections})
    assert score <= raised <= 1.0
    assert with_history(score, {}) == score


def test_many_corrections_weigh_more_than_one() -> None:
    one = with_history(0.4, {"expert_labels": 1, "corrections": 1})
    many = with_history(0.4, {"expert_labels": 40, "corrections": 40})
    assert 0.4 < one < many
