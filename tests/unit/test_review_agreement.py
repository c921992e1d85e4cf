"""When experts agree, and who counts as an annotator."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.review.access import annotator_name
from flywheel.review.agreement import verdict
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer

AT = datetime(2026, 1, 1, tzinfo=UTC)


def answers(*values: str | None) -> list[Answer]:
    return [
        Answer(sample_id="s", annotator=f"expert {i}", value=value, answered_at=AT)
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("given_values", "needed", "at_most", "expected"),
    [
        ((), 1, 3, None),
        ((None,), 1, 3, None),
        (("A",), 1, 3, "A"),
        (("A",), 2, 3, None),
        (("A", "A"), 2, 3, "A"),
        (("A", "B"), 2, 3, None),
        (("A", "B", "B"), 2, 3, "B"),
        (("A", None, "A"), 2, 3, "A"),
        (("A", "B", "C"), 2, 3, None),
        (("A", "B", "C", "C"), 2, 3, "C"),
        (("A", "A", "B"), 3, 3, "A"),
        (("A", "A", "B", "B"), 3, 4, None),
        (("A", "A", "B", "B", "A"), 3, 4, "A"),
    ],
)
def test_verdicts(
    given_values: tuple[str | None, ...], needed: int, at_most: int, expected: str | None
) -> None:
    settings = ReviewSettings(answers_needed=needed, answers_at_most=at_most)
    found = verdict(answers(*given_values), settings)
    assert (found.value if found else None) == expected


def test_a_person_whose_name_was_taken_in_two_spellings_has_one_vote() -> None:
    given = [
        Answer(sample_id="s", annotator=name, value=value, answered_at=AT)
        for name, value in (("Kim", "A"), ("kim", "A"), ("KIM", "B"), ("Bo", "B"))
    ]
    assert verdict(given, ReviewSettings(answers_needed=2)) is None
    found = verdict(given[:2], ReviewSettings())
    assert found is not None
    assert (found.annotators, found.agreement) == (("Kim",), 1.0)


def test_a_verdict_names_who_agreed_and_how_much() -> None:
    found = verdict(answers("A", "B", None, "A"), ReviewSettings(answers_needed=2))
    assert found is not None
    assert found.annotators == ("expert 0", "expert 3")
    assert found.agreement == pytest.approx(2 / 3)
    assert not found.unanimous


def test_weights_can_break_a_tie() -> None:
    settings = ReviewSettings(answers_needed=2, answers_at_most=2)
    assert verdict(answers("A", "B"), settings) is None
    trusted = verdict(answers("A", "B"), settings, lambda name: 1.5 if name == "expert 1" else 1)
    assert trusted is not None
    assert trusted.value == "B"


@given(
    st.lists(st.sampled_from(["A", "B", "C", None]), max_size=9),
    st.integers(1, 5),
    st.integers(0, 5),
)
def test_the_settled_label_leads_and_has_support(
    values: list[str | None], needed: int, more: int
) -> None:
    at_most = needed + more
    settings = ReviewSettings(answers_needed=needed, answers_at_most=at_most)
    found = verdict(answers(*values), settings)
    cast = [value for value in values if value is not None]
    counts = sorted((cast.count(value) for value in set(cast)), reverse=True)
    decided = bool(counts) and (counts[0] >= needed or len(cast) >= at_most)
    tied = len(counts) > 1 and counts[0] == counts[1]
    assert (found is not None) == (decided and not tied)
    if found is not None:
        assert cast.count(found.value) == counts[0] == len(found.annotators)


@given(st.text(max_size=80))
def test_a_name_once_accepted_stays_as_it_is(name: str) -> None:
    try:
        tidy = annotator_name(name)
    except ValueError:
        return
    assert annotator_name(tidy) == tidy
    assert 1 <= len(tidy) <= 64


def test_one_person_is_one_name_however_it_was_typed() -> None:
    assert annotator_name(" Zoe\u0308 ") == annotator_name("Zo\u00eb")


@pytest.mark.parametrize(
    ("given_values", "needed", "at_most", "settles", "expected"),
    [
        (("?",), 1, 3, True, None),
        (("?",), 2, 3, False, None),
        (("?", "?"), 2, 3, True, None),
        (("A", "?"), 2, 3, False, None),
        (("A", "?", "?"), 2, 3, True, None),
        (("A", "?", "A"), 2, 3, True, "A"),
        (("A", None, "?"), 1, 3, False, None),
        (("A", "B", "?", "?"), 3, 4, True, None),
    ],
)
def test_that_it_cannot_be_labelled_is_an_answer_like_any_other(
    given_values: tuple[str | None, ...],
    needed: int,
    at_most: int,
    settles: bool,
    expected: str | None,
) -> None:
    given_answers = [
        Answer(sample_id="s", annotator=f"expert {i}", value=None if value == "?" else value,
               answered_at=AT, unlabelable=value == "?")
        for i, value in enumerate(given_values)
    ]  # fmt: skip
    found = verdict(given_answers, ReviewSettings(answers_needed=needed, answers_at_most=at_most))
    assert (found is not None) is settles
    if found is not None:
        assert found.value == expected
