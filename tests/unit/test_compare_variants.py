"""The comparison's statistics and its choice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from flywheel.compression.compare import (
    CONFIDENCE,
    Comparison,
    Evidence,
    Speed,
    bootstrap_interval,
    compare,
    lower_bound,
    score_bound,
    score_statistic,
    verdict,
)
from flywheel.contracts.proportions import wilson_interval
from flywheel.errors import PipelineError


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


counts = st.integers(1, 3000).flatmap(
    lambda total: st.tuples(
        st.integers(0, total), st.integers(0, total), st.just(total)
    ).filter(lambda drawn: drawn[0] + drawn[1] <= drawn[2])
)  # fmt: skip


@given(counts)
def test_bounds_hold_the_estimate_and_stay_in_range(drawn: tuple[int, int, int]) -> None:
    fixed, broken, total = drawn
    estimate = (fixed - broken) / total
    low, high = bootstrap_interval(fixed, broken, total)
    assert -1 <= low <= estimate <= high <= 1
    bound = lower_bound(fixed, broken, total)
    assert -1 <= bound <= estimate + 1e-9
    # Swapping the two mirrors the interval, but for the draws' noise.
    mirrored = bootstrap_interval(broken, fixed, total)
    assert mirrored == pytest.approx((-high, -low), abs=0.2 / total**0.5 + 2 / total)


@given(counts)
def test_more_broken_answers_never_raise_the_bound(drawn: tuple[int, int, int]) -> None:
    fixed, broken, total = drawn
    if broken + fixed < total:
        assert score_bound(fixed, broken + 1, total) <= score_bound(fixed, broken, total) + 1e-9


@given(counts)
def test_the_score_bound_inverts_its_statistic(drawn: tuple[int, int, int]) -> None:
    fixed, broken, total = drawn
    bound = score_bound(fixed, broken, total)
    if bound > -1:
        assert score_statistic(fixed, broken, total, -bound + 1e-6) >= 1.6448
        assert score_statistic(fixed, broken, total, -bound - 1e-6) <= 1.6450


def test_the_bootstrap_of_equal_answers_proves_nothing_by_itself() -> None:
    assert bootstrap_interval(0, 0, 200) == (0.0, 0.0)
    standing, reason = verdict(0, 0, 200, 0.01, 0.02)
    assert standing == "doubtful"
    assert "200 samples cannot prove" in reason
    assert verdict(0, 0, 1000, 0.01, 0.02)[0] == "equal"


def test_the_bootstrap_interval_is_that_of_scipy() -> None:
    from scipy.stats import bootstrap

    fixed, broken, total = 14, 25, 400
    values = np.array([1] * fixed + [-1] * broken + [0] * (total - fixed - broken), dtype=float)
    theirs = bootstrap(
        (values,), np.mean, method="BCa", n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    ours = bootstrap_interval(fixed, broken, total)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1.5 / total)


@pytest.mark.parametrize("total", [150, 300, 500, 1000, 2000])
@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_at_the_margin_at_most_one_in_twenty_passes(total: int, margin: float) -> None:
    """Counted over every outcome, not drawn: the chance that a variant whose true loss is the
    margin is called no worse, for any share of answers that differ."""
    for times in (1.0, 1.02, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 5.0, 8.0):
        differing = margin * times
        broken_share, fixed_share = (differing + margin) / 2, (differing - margin) / 2
        most = min(total, int(total * differing + 12 * (total * differing) ** 0.5 + 20))
        counted = np.arange(most + 1)
        broken_odds = binom.pmf(counted, total, broken_share)
        fixed_odds = binom.pmf(
            counted[:, None], total - counted[None, :], fixed_share / (1 - broken_share)
        )
        passes = _passes(total, margin, most)
        assert float((passes * fixed_odds * broken_odds).sum()) <= 1 - CONFIDENCE


def _passes(total: int, margin: float, most: int) -> np.ndarray:
    """Whether (fixed, broken) passes the score test, which the verdict needs in any case."""
    rows = np.zeros((most + 1, most + 1))
    for fixed in range(most + 1):
        # More broken answers never help: look for the last number that still passes.
        low, high = -1, most + 1
        while high - low > 1:
            middle = (low + high) // 2
            able = fixed + middle <= total
            if able and score_statistic(fixed, middle, total, margin) > 1.6448536:
                low = middle
            else:
                high = middle
        rows[fixed, : low + 1] = 1
    return rows


def test_a_simulated_false_verdict_is_rare() -> None:
    generator = np.random.default_rng(7)
    drawn = Counter(map(tuple, generator.multinomial(1000, [0.01, 0.02, 0.97], size=2000)))
    told = sum(
        times
        for (fixed, broken, _), times in drawn.items()
        if verdict(int(fixed), int(broken), 1000, 0.01, 0.05)[0] == "equal"
    )
    assert told / 2000 <= 0.05


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
        st.tuples(st.integers(0, 300), st.floats(0.1, 50.0), st.integers(1, 1000)),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_chosen_is_always_eligible_and_never_dearer(
    drawn: list[tuple[int, float, int]],
) -> None:
    rows = [
        evidence(name, wrong, cost, size=size)
        for name, (wrong, cost, size) in zip(("none", *"abcde"), drawn, strict=False)
    ]
    found = table(*rows)
    chosen = found.row(found.chosen)
    assert chosen.eligible
    least = min(row.speed.cost_ms for row in found.rows if row.eligible and row.speed)
    assert chosen.speed is not None
    assert chosen.speed.cost_ms <= least * 1.05
