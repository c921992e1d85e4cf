"""Metrics against their definitions, and intervals against their coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.evaluation.metrics import expected_calibration_error, measure
from flywheel.kinds import Choice
from flywheel.kinds.label_metrics import brier_score, confusion, negative_log_likelihood
from flywheel.kinds.predictions import Prediction

LABELS = ("a", "b", "c")


def prediction(label: str, weights: tuple[float, float, float], number: int = 0) -> Prediction:
    total = sum(weights)
    scores = {name: weight / total for name, weight in zip(LABELS, weights, strict=True)}
    best = max(scores, key=scores.__getitem__)
    return Prediction(sample_id=f"s{number}", label=label, prediction=best, scores=scores)


weights = st.tuples(*[st.floats(0.01, 1)] * 3)
predictions = st.lists(st.builds(prediction, st.sampled_from(LABELS), weights), min_size=1)


@settings(deadline=None)
@given(predictions)
def test_measures_agree_with_their_definitions(given_: list[Prediction]) -> None:
    metrics = measure(given_, Choice(LABELS), 0.95)
    table = confusion(given_, LABELS)
    assert metrics["accuracy"] == sum(table[x][x] for x in LABELS) / len(given_)
    assert sum(sum(row.values()) for row in table.values()) == len(given_)
    assert 0 <= metrics["ece"] <= 1
    assert 0 <= metrics["brier"] <= 2
    assert metrics["nll"] >= 0
    probabilities = np.array([[p.scores[x] for x in LABELS] for p in given_])
    truth = np.array([[float(p.label == x) for x in LABELS] for p in given_])
    assert metrics["brier"] == pytest.approx(((probabilities - truth) ** 2).sum(axis=1).mean())
    assert metrics["nll"] == pytest.approx(-np.log((probabilities * truth).sum(axis=1)).mean())


@settings(deadline=None)
@given(predictions)
def test_macro_f1_is_that_of_the_textbook(given_: list[Prediction]) -> None:
    from sklearn.metrics import f1_score

    truth, answers = [p.label for p in given_], [p.prediction for p in given_]
    present = sorted({*truth, *answers})
    expected = f1_score(truth, answers, labels=present, average="macro", zero_division=0)
    assert measure(given_, Choice(LABELS), 0.95)["macro_f1"] == pytest.approx(expected)


def test_honest_confidence_has_no_calibration_error() -> None:
    given_ = [prediction("a" if n % 10 < 8 else "b", (0.8, 0.1, 0.1), n) for n in range(100)]
    assert expected_calibration_error(given_) == pytest.approx(0.0, abs=1e-9)
    boastful = [prediction("a" if n % 10 < 5 else "b", (0.8, 0.1, 0.1), n) for n in range(100)]
    assert expected_calibration_error(boastful) == pytest.approx(0.3)


def test_a_label_that_no_score_names_is_counted_as_wrong() -> None:
    odd = [Prediction(sample_id="s", label="z", prediction="a", scores={"a": 1.0})]
    assert brier_score(odd) == 2
    assert negative_log_likelihood(odd) == pytest.approx(-math.log(1e-12))
    assert measure(odd, Choice(LABELS), 0.95)["accuracy"] == 0


def test_nothing_measured_says_so() -> None:
    metrics = measure([], Choice(LABELS), 0.95)
    assert (metrics["samples"], metrics["accuracy_low"], metrics["accuracy_high"]) == (0, 0.0, 1.0)
