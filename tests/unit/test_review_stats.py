"""Figures about annotators."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flywheel.review.ports import Answer, JudgedAnswer
from flywheel.review.stats import annotators

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def judged(
    sample: str,
    who: str,
    value: str | None,
    settled: str | None,
    minutes: int = 1,
    seconds: float = 0,
) -> JudgedAnswer:
    at = NOW - timedelta(minutes=minutes)
    answer = Answer(sample_id=sample, annotator=who, value=value, answered_at=at, seconds=seconds)
    return JudgedAnswer(answer=answer, settled=settled)


def test_counts_speed_and_agreement_by_annotator() -> None:
    history = [
        judged("a", "ada", "X", "X", minutes=90, seconds=4),
        judged("a", "bob", "Y", "X", minutes=80),
        judged("a", "cy", "X", "X", minutes=70),
        judged("b", "ada", "Y", "Y", minutes=5, seconds=10),
        judged("c", "ada", "X", None, minutes=4, seconds=6),
        judged("c", "bob", "Y", None, minutes=3),
        judged("d", "bob", None, None, minutes=2),
    ]
    ada, bob, cy = annotators(history, NOW, ("X", "Y"))
    assert [one.annotator for one in (ada, bob, cy)] == ["ada", "bob", "cy"]
    assert (ada.answers, ada.skips, ada.per_hour, ada.seconds) == (3, 0, 2, 6)
    assert (ada.agreement, ada.compared) == (1.0, 1), "alone on b, and c is not settled"
    assert (bob.answers, bob.skips, bob.agreement) == (2, 1, 0.0)
    assert bob.seconds is None
    assert bob.latest == NOW - timedelta(minutes=2)
    assert cy.agreement == pytest.approx(1.0)


def test_nobody_has_no_figures() -> None:
    assert annotators([], NOW, ("X", "Y")) == []
