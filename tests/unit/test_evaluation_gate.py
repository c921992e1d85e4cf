"""The gate lets through what is no worse, and stops what is not shown to be."""

import random

from flywheel.evaluation.config import GateSettings
from flywheel.evaluation.gate import decide
from flywheel.kinds.predictions import Prediction


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
