"""The comparison's statistics and its choice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.compression.compare import (
    CONFIDENCE,
    Comparison,
    Evidence,
    Speed,
    compare,
    verdict,
)
from flywheel.errors import PipelineError
from flywheel.statistics.noninferiority import no_worse
from flywheel.statistics.proportions import wilson_interval


def speed(cost: float) -> Speed:
    return Speed(
        p50_ms=cost, p95_ms=2 * cost, per_second=1e3 / cost, in_flight=16, cost_ms=cost,
        memory_bytes=1,
    )  # fmt: skip


def evidence(
    name: str, wrong: int, cost: float | None = None, *, size: int = 100, total: int = 1000
) -> Evidence:
    """A variant whose first ``wrong`` answers are wrong."""
    right = tuple(index >= wrong for index in range(total))
    measured = None if cost is None else speed(cost)
    return Evidence(name=name, method="int8-dynamic", bytes=size, right=right, speed=measured)


def table(*rows: Evidence, margin: float = 0.01, pin: str = "") -> Comparison:
    return compare(rows, margin=margin, max_loss=0.02, pin=pin, engine="embedded")


def test_equal_answers_prove_nothing_on_few_samples() -> None:
    standing, reason = verdict(0, 0, 200, 0.01, 0.02)
    assert standing == "doubtful"
    assert "from about 300 held-out samples on (this holdout has 200)" in reason
    assert verdict(0, 0, 1000, 0.01, 0.02)[0] == "equal"


def test_the_interval_shown_is_of_the_test_that_decides() -> None:
    found = table(evidence("none", 50), evidence("one", 55), evidence("two", 50), margin=0.02)
    one, same = found.row("one"), found.row("two")
    assert one.difference_low == no_worse(0, 5, 1000, 0.02, 1 - CONFIDENCE).least
    assert -0.02 < one.difference_low < one.difference < one.difference_high < 0.001
    # Equal answers leave a doubt, which a bootstrap of them does not know.
    assert same.difference_low == pytest.approx(-0.003, abs=1e-4)
    assert same.difference_high == pytest.approx(0.003, abs=1e-4)
    assert (found.row("none").difference_low, found.row("none").difference_high) == (0, 0)


def test_the_cheapest_that_is_no_worse_serves() -> None:
    found = table(
        evidence("none", 50, 8.0, size=400),
        evidence("int8-static", 90, 1.0),
        evidence("int8-dynamic", 51, 3.0),
        evidence("pruned", 50, 2.0, size=300),
    )
    assert found.chosen == "pruned"
    static = found.row("int8-static")
    assert (static.standing, static.eligible, static.broken) == ("worse", False, 40)
    assert found.row("int8-dynamic").difference == pytest.approx(-0.001)
    low, high = wilson_interval(950, 1000, 0.95)
    row = found.row("none")
    assert (row.accuracy_low, row.accuracy_high, row.standing) == (low, high, "reference")


def test_costs_that_are_nearly_equal_are_told_apart_by_size() -> None:
    found = table(
        evidence("none", 50, 8.0, size=400),
        evidence("one", 50, 2.00, size=200),
        evidence("two", 50, 2.05, size=100),
        evidence("three", 50, 2.30, size=50),
    )
    assert found.chosen == "two"


def test_without_speeds_the_smallest_serves() -> None:
    assert table(evidence("none", 50, size=400), evidence("one", 50)).chosen == "one"
    some = table(evidence("none", 50, 9.0, size=400), evidence("a", 50, 2.0), evidence("b", 50))
    assert some.chosen == "a"
    some = table(evidence("none", 50, 9.0), evidence("a", 50, 2.0), evidence("b", 50, size=9))
    assert some.chosen == "b"


def test_a_reference_that_was_not_timed_is_left_out() -> None:
    rows = (evidence("none", 50, size=1), evidence("a", 50, 3.0, size=9), evidence("b", 50, 2.0))
    assert table(*rows).chosen == "b"
    assert table(rows[0], evidence("a", 400, 3.0)).chosen == "none"


def test_the_reference_serves_when_nothing_else_may() -> None:
    failed = Evidence(name="w8a8", method="w8a8", failure="no such layer")
    found = table(evidence("none", 50, 8.0), evidence("one", 65, 1.0), failed)
    assert found.chosen == "none"
    assert "one" in found.reason
    assert found.row("one").standing == "doubtful"
    assert found.row("w8a8").reason == "no such layer"


def test_a_pin_is_kept_unless_its_loss_is_proven() -> None:
    rows = (evidence("none", 50, 8.0), evidence("one", 62, 1.0), evidence("two", 200, 1.0))
    found = table(*rows, pin="one")
    assert found.chosen == "one"
    assert found.reason.startswith("pinned, although")
    with pytest.raises(PipelineError, match=r"pin 'two' cannot serve: proven to lose"):
        table(*rows, pin="two")
    with pytest.raises(PipelineError, match="it was not made"):
        table(*rows, pin="three")


def test_nothing_is_compared_without_the_reference_or_with_other_samples() -> None:
    with pytest.raises(PipelineError, match="nothing to compare with"):
        table(evidence("one", 5))
    with pytest.raises(PipelineError, match="answered 10 held-out samples"):
        table(evidence("none", 5), evidence("one", 5, total=10))


@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.floats(0.1, 50.0), st.integers(1, 1000)),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_chosen_is_always_eligible_and_never_dearer(
    drawn: list[tuple[int, float, int]],
) -> None:
    rows = [
        evidence(name, wrong, cost, size=size, total=300)
        for name, (wrong, cost, size) in zip(("none", *"abcde"), drawn, strict=False)
    ]
    found = table(*rows)
    chosen = found.row(found.chosen)
    assert chosen.eligible
    least = min(row.speed.cost_ms for row in found.rows if row.eligible and row.speed)
    assert chosen.speed is not None
    assert chosen.speed.cost_ms <= least * 1.05
