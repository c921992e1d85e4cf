"""The gate lets through what is no worse, and stops what is not shown to be."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.evaluation.config import GateSettings
from flywheel.evaluation.gate import decide, paired_lower_bound
from flywheel.evaluation.metrics import Prediction


def answers(right: list[bool], start: int = 0) -> list[Prediction]:
    return [
        Prediction(
            sample_id=f"s{start + n}",
            label="a",
            prediction="a" if ok else "b",
            scores={"a": float(ok), "b": float(not ok)},
        )
        for n, ok in enumerate(right)
    ]


def test_a_first_release_passes_unless_it_is_under_the_floor() -> None:
    challenger = answers([True] * 70 + [False] * 30)
    decision = decide(None, challenger, GateSettings())
    assert decision.passed
    assert decision.accuracy == 0.7
    assert decision.accuracy_low < 0.7 < decision.accuracy_high
    floored = decide(None, challenger, GateSettings(min_accuracy=0.8))
    assert not floored.passed
    assert "below the floor" in floored.reason


def test_the_same_answers_pass_and_much_worse_ones_do_not() -> None:
    champion = answers([True] * 900 + [False] * 100)
    same = decide(champion, champion, GateSettings())
    assert same.passed
    assert same.difference == 0
    worse = decide(champion, answers([True] * 800 + [False] * 200), GateSettings())
    assert not worse.passed
    assert worse.broken == 100
    assert "not shown to be no worse" in worse.reason
    assert decide(answers([False] * 60 + [True] * 40), answers([True] * 100), GateSettings()).passed


def test_with_few_samples_a_small_gain_is_no_proof() -> None:
    champion, challenger = answers([True] * 20 + [False] * 5), answers([True] * 19 + [False] * 6)
    decision = decide(champion, challenger, GateSettings())
    assert not decision.passed
    assert decision.compared == 25


def test_pairs_are_matched_by_sample_and_a_corrected_label_counts_for_both() -> None:
    champion = answers([True] * 500)
    corrected = [
        Prediction(sample_id=p.sample_id, label="b", prediction="b", scores=p.scores)
        for p in answers([True] * 600)
    ]
    random.Random(1).shuffle(corrected)
    decision = decide(champion, corrected, GateSettings())
    assert decision.compared == 500
    assert decision.champion_accuracy == 0
    assert decision.fixed == 500


def test_nothing_to_compare_does_not_pass() -> None:
    assert not decide(answers([True]), answers([True], start=5), GateSettings()).passed
    assert not decide(None, [], GateSettings()).passed


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 1000))
def test_the_bound_lies_below_the_estimate_and_rises_with_fixes(
    fixed: int, broken: int, same: int
) -> None:
    pairs = fixed + broken + same + 1
    bound = paired_lower_bound(fixed, broken, pairs, 0.95)
    shrunk = (fixed - broken) / (pairs + 2)
    assert -1 <= bound < shrunk
    assert paired_lower_bound(fixed + 1, broken, pairs + 1, 0.95) > bound - 2 / pairs
    assert paired_lower_bound(fixed, broken, pairs, 0.99) <= bound


@pytest.mark.parametrize("discordant", [0.04, 0.15])
def test_a_challenger_at_the_margin_passes_no_more_often_than_allowed(discordant: float) -> None:
    """At exactly the allowed regression, 95 % confidence lets through about 5 %."""
    chance, gate, passed = random.Random(3), GateSettings(max_regression=0.02), 0
    broken_share = (discordant + gate.max_regression) / 2
    fixed_share = (discordant - gate.max_regression) / 2
    for _ in range(2000):
        draws = [chance.random() for _ in range(600)]
        fixed = sum(d < fixed_share for d in draws)
        broken = sum(fixed_share <= d < fixed_share + broken_share for d in draws)
        passed += paired_lower_bound(fixed, broken, 600, gate.confidence) > -0.02
    assert passed / 2000 < 0.075
