"""When a free text is right, and how free texts are measured and gated."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from holdout_metrics import holdout_metrics
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.answers import (
    LONGEST_TEXT,
    normalised,
    same_text,
    text_problem,
)
from flywheel.contracts.dataset_folder import DatasetLine, encode_lines
from flywheel.contracts.layout import PREDICTIONS_FILE
from flywheel.evaluation.answered import read_predictions
from flywheel.evaluation.config import GateSettings
from flywheel.evaluation.gate import decide
from flywheel.evaluation.metrics import measure
from flywheel.kinds import FreeText
from flywheel.kinds.predictions import Prediction, is_right
from flywheel.kinds.text_metrics import token_f1


@given(st.text())
def test_normalising_again_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@given(st.text(), st.text(), st.text())
def test_being_the_same_is_an_equivalence(one: str, two: str, three: str) -> None:
    assert same_text(one, one)
    assert same_text(one, two) == same_text(two, one)
    if same_text(one, two) and same_text(two, three):
        assert same_text(one, three)


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1))
def test_spacing_case_and_width_do_not_matter(words: list[str]) -> None:
    text = " ".join(words)
    assert same_text(text, "\t\n".join(words) + "\r\n")
    assert same_text(text, f"\u00a0{text}\u3000")
    assert same_text(text.lower(), text.lower().casefold())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Straße", "STRASSE", True),
        ("Zoe\u0308", "ZO\u00cb", True),
        ("\uff21\uff22\uff23", "abc", True),
        ("Yes.", "yes", False),
        ("a b", "ab", False),
        ("", " \n", True),
    ],
)
def test_what_counts_as_the_same(one: str, other: str, same: bool) -> None:
    assert same_text(one, other) is same


@given(st.text(), st.text())
def test_a_label_is_right_to_the_letter_alone(answer: str, truth: str) -> None:
    scores = {answer: 1.0}
    assert is_right(answer, truth, scores) == (answer == truth)
    assert is_right(answer, truth, {}) == (normalised(answer) == normalised(truth))
    assert is_right("Yes", "yes", {})
    assert not is_right("Yes", "yes", {"Yes": 1.0})


def test_a_text_that_nobody_may_give_as_right() -> None:
    assert text_problem("fine") is None
    assert text_problem("x" * LONGEST_TEXT) is None
    assert "empty" in (text_problem(" \n\t") or "")
    assert "8001 characters" in (text_problem("x" * (LONGEST_TEXT + 1)) or "")


def said(number: int, truth: str, answer: str, sure: float = 0.9) -> Prediction:
    return Prediction(
        sample_id=f"s{number}", label=truth, prediction=answer, scores={}, reported=sure
    )


def test_free_text_is_measured_by_matches_words_and_characters() -> None:
    given_ = [
        said(0, "The Danube", "the  danube", 0.9),
        said(1, "in 1492", "in the year 1492", 0.7),
        said(2, "amber", "resin", 0.2),
        said(3, "a barometer", "a barometer", 0.8),
    ]
    metrics = measure(given_, FreeText(), 0.95)
    assert (metrics["samples"], metrics["correct"], metrics["accuracy"]) == (4, 2, 0.5)
    assert 0.1 < metrics["accuracy_low"] < 0.5 < metrics["accuracy_high"] < 0.9
    assert metrics["token_f1"] == pytest.approx((1 + 2 * 2 / 6 + 0 + 1) / 4)
    assert 30 < metrics["chrf"] < 90
    assert metrics["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    assert metrics["mean_confidence"] == pytest.approx(0.65)
    assert metrics["ece"] == pytest.approx((0.1 + 0.7 + 0.2 + 0.2) / 4)
    assert not {"classes", "confusion", "brier", "nll", "macro_f1"} & metrics.keys()
    msgspec.json.encode(metrics)


def test_nothing_generated_says_so() -> None:
    metrics = measure([], FreeText(), 0.95)
    assert (metrics["samples"], metrics["chrf"], metrics["token_f1"]) == (0, 0.0, 0.0)
    assert (metrics["accuracy_low"], metrics["accuracy_high"]) == (0.0, 1.0)


@given(st.text(), st.text())
def test_token_f1_is_between_nothing_and_a_match(one: str, other: str) -> None:
    found = token_f1(one, other)
    assert 0 <= found <= 1
    assert found == token_f1(other, one)
    if same_text(one, other):
        assert found == 1


@dataclass
class WrittenAnswer:
    text: str
    confidence: float


def test_a_generator_is_evaluated_and_its_answers_are_kept(tmp_path: Path) -> None:
    lines = [
        DatasetLine(sample_id=f"s{n}", text=f"Question {n}", label=f"ANSWER {n % 3}", source="seed")
        for n in range(12)
    ]
    (tmp_path / "holdout.jsonl").write_bytes(encode_lines(lines))

    def generate(texts: object) -> list[WrittenAnswer]:
        assert isinstance(texts, list)
        return [WrittenAnswer(f"answer {int(text.split()[1]) % 2}", 0.5) for text in texts]

    out = tmp_path / "evaluation"
    metrics = holdout_metrics(generate, tmp_path, FreeText(), out)
    kept = read_predictions(out / PREDICTIONS_FILE)
    assert metrics["correct"] == sum(p.correct for p in kept) == 4
    assert (kept[0].prediction, kept[0].label, kept[0].confidence) == ("answer 0", "ANSWER 0", 0.5)


def test_the_kept_answers_of_a_classifier_look_as_before() -> None:
    line = msgspec.json.encode(
        Prediction(sample_id="s", label="a", prediction="a", scores={"a": 1.0})
    )
    assert line == b'{"sample_id":"s","label":"a","prediction":"a","scores":{"a":1.0}}'


def test_the_gate_compares_free_text_pair_by_pair() -> None:
    chance = random.Random(3)
    truths = [f"Answer {chance.randrange(50)}" for _ in range(400)]
    before = [said(n, t, t.upper() if n % 2 else "wrong") for n, t in enumerate(truths)]
    after = [said(n, t, f" {t.lower()} " if n % 4 else "wrong") for n, t in enumerate(truths)]
    better = decide(before, after, GateSettings())
    assert better.passed
    assert (better.fixed, better.broken, better.champion_accuracy) == (100, 0, 0.5)
    worse = decide(after, before, GateSettings())
    assert not worse.passed
    assert (worse.fixed, worse.broken) == (0, 100)
