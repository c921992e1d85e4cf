"""An agent begins the sooner the more comes, and waits longer where little does."""

from __future__ import annotations

import pytest

from streams.pace import WRITING, Pace


@pytest.mark.parametrize(
    ("a_second", "pause"),
    [(0.1, 0.5), (4, 0.5), (200, 0.5), (400, 0.25), (1000, 0.1), (50_000, 0.1)],
)
def test_little_waits_for_more_and_much_does_not(a_second: float, pause: float) -> None:
    pace = Pace(shortest=0.1, longest=0.5, worth=100)
    seconds = max(0.2, 1 / a_second)
    records = max(1, round(a_second * seconds))
    assert pace.pause(records, seconds) == pytest.approx(pause)


def test_the_pace_settles_where_a_batch_is_worth_its_costs() -> None:
    pace, pause = Pace(shortest=0.1, longest=0.5, worth=100), 0.5
    for _ in range(20):
        records = round(400 * pause)
        pause = pace.pause(records, pause)
    assert records == pytest.approx(100, abs=1)


def test_without_bounds_nothing_waits() -> None:
    assert Pace().pause(1, 60.0) == 0.0


def test_what_is_written_is_there_well_within_a_second() -> None:
    assert WRITING.pause(0, 0.0) == WRITING.pause(1, 3600.0) == WRITING.longest <= 0.5
