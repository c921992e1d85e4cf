"""No rounding hides what is there: 0.5 % is no 0 %, and one wrong of thousands no 100 %."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import flywheel
from flywheel.console import words
from flywheel.contracts.percentages import percentage, rounded, signed_points
from flywheel.rollout.analysis.harm import points
from flywheel.rollout.plan import percent

inner = st.floats(1e-6, 1 - 1e-6)


def number(text: str) -> float:
    return float(re.sub(r"[%\s]", "", text.replace("−", "-")))


@given(inner)
@example(0.005)
@example(0.0004)
@example(0.9996)
@example(0.99996)
@example(1 - 1e-6)
@pytest.mark.parametrize("write", [percent, percentage, rounded, words.share, words.percent])
def test_what_is_not_nothing_or_all_does_not_read_so(write, share: float) -> None:  # type: ignore[no-untyped-def]
    assert 0 < number(write(share)) < 100


@given(inner)
def test_three_figures_are_right(share: float) -> None:
    distance = min(share, 1 - share) * 100
    assert abs(float(percentage(share)) - share * 100) <= 0.0051 * distance + 1e-9


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0"), (1, "100"), (0.005, "0.5"), (0.05, "5"), (0.25, "25"), (0.123, "12.3"),
     (1 / 3, "33.3"), (0.9996, "99.96"), (0.0004, "0.04"), (0.1, "10"), (0.995, "99.5")],
)  # fmt: skip
def test_it_reads_as_a_person_would_write_it(share: float, text: str) -> None:
    assert percentage(share) == text
    assert percent(share) == f"{text}%"
    assert words.share(share) == f"{text}{words.THIN}%"


@pytest.mark.parametrize(
    ("difference", "text"),
    [(0, "+0.0"), (0.0004, "+0.04"), (-0.0004, "-0.04"), (-0.05, "-5.0"), (1e-17, "+0.0")],
)
def test_a_difference_has_the_decimals_that_tell_it_from_none(difference: float, text: str) -> None:
    assert signed_points(difference) == text
    assert points(difference) == f"{text} points"
    assert words.points(difference) == text.replace("-", "−")


def test_an_accuracy_keeps_its_decimal() -> None:
    assert words.percent(0.912) == f"91.2{words.THIN}%"
    assert words.percent(1.0) == f"100.0{words.THIN}%"
    assert words.percent(0.9999) == f"99.99{words.THIN}%"


SOURCES = [*(Path(flywheel.__file__).parent.rglob("*.py"))]


def test_no_share_of_answers_is_rounded_by_a_format_of_its_own() -> None:
    """Such as ``f"{accuracy:.1%}"``, in which 4,999 of 5,000 are 100.0 %."""
    own = re.compile(r"\{[^{}]*(accuracy|error|agreement|share|rate)[^{}]*:\.\d%\}")
    found = [
        (path.name, line)
        for path in SOURCES
        for line in path.read_text("utf-8").splitlines()
        if own.search(line)
    ]
    assert found == []
