"""How the console puts numbers into words, and evidence on axes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.console.overview import release_status
from flywheel.console.recent import Recent
from flywheel.console.rollout_page import WIDTH, steps
from flywheel.console.rollout_page import _interval as interval
from flywheel.console.words import count, duration, percent, points, share, short, size
from flywheel.rollout.analysis.evidence import Check
from flywheel.rollout.ports import Rollout

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def rollout(**changes: object) -> Rollout:
    values: dict[str, object] = {
        "rollout_id": "r",
        "task": "t",
        "champion": "a",
        "challenger": "b",
        "state": "canary",
        "step": 1,
        "share": 0.25,
        "started_at": NOW,
        "step_started_at": NOW,
        "steps": (0.05, 0.25, 0.5),
    }
    return Rollout(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (count(1234567), "1 234 567"),
        (count(None), "–"),
        (percent(0.9127), "91.3 %"),
        (share(0.05), "5 %"),
        (share(0.125), "12.5 %"),
        (points(-0.0421), "−4.2"),
        (size(23_412_096), "23.4 MB"),
        (size(512), "512 B"),
        (duration(42.7), "42 s"),
        (duration(185), "3 min 05 s"),
        (duration(7800), "2 h 10 min"),
        (duration(3 * 86400 + 4 * 3600), "3 d 4 h"),
        (short("my-task-3f9a01c2d4e5"), "3f9a01c"),
    ],
)
def test_words(written: str, expected: str) -> None:
    assert written.replace("\u202f", " ") == expected


_finite = st.floats(-1, 1)


@given(value=_finite, low=_finite, high=_finite, margin=st.floats(0.005, 0.5), falls=st.booleans())
def test_every_interval_lies_on_its_axis_in_order(
    value: float, low: float, high: float, margin: float, falls: bool
) -> None:
    low, value, high = sorted((low, value, high))
    drawn = interval(
        Check(
            kind="promotion",
            name="accuracy" if falls else "errors",
            compares="",
            outcome="waiting",
            words="",
            value=value,
            low=low,
            high=high,
            margin=-margin if falls else margin,
        ),
        "",
    )
    assert drawn.low is not None
    assert drawn.value is not None
    assert drawn.high is not None
    assert 0 <= drawn.low <= drawn.value <= drawn.high <= WIDTH
    assert 0 < drawn.margin < WIDTH
    assert (drawn.margin < drawn.neutral) is falls
    assert drawn.bad == (
        (0.0, drawn.margin) if falls else (drawn.margin, round(WIDTH - drawn.margin, 2))
    )
    assert 2 <= len(drawn.ticks) <= 8


@pytest.mark.parametrize("name", ["accuracy", "errors", "latency"])
def test_a_measure_without_data_shows_its_margin_alone(name: str) -> None:
    margin = {"accuracy": -0.05, "errors": 0.02, "latency": 1.5}[name]
    check = Check(
        kind="promotion", name=name, compares="", outcome="waiting", words="", margin=margin
    )
    drawn = interval(check, "")
    assert (drawn.low, drawn.value, drawn.high) == (None, None, None)
    assert drawn.value_words == "no data yet"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": "warming", "step": -1}, ["now", "", "", "", "", ""]),
        ({"state": "shadow", "step": -1}, ["done", "now", "", "", "", ""]),
        ({}, ["done", "done", "done", "now", "", ""]),
        ({"state": "paused", "resume_to": "canary"}, ["done", "done", "done", "held", "", ""]),
        ({"state": "rolled_back", "ended_at": NOW}, ["done", "done", "done", "bad", "", ""]),
        ({"state": "promoted", "step": 2, "ended_at": NOW}, ["done"] * 6),
    ],
)
def test_the_plan_shows_where_a_rollout_stands(
    changes: dict[str, object], expected: list[str]
) -> None:
    assert [step.state for step in steps(rollout(**changes))] == expected


def test_a_release_is_what_its_latest_rollout_made_of_it() -> None:
    ended = rollout(state="promoted", ended_at=NOW)
    again = rollout(champion="b", challenger="c", state="rolled_back", ended_at=NOW)
    past = [again, ended]
    assert release_status("b", "b", past) == "champion"
    assert release_status("c", "b", past) == "rolled_back"
    assert release_status("a", "b", past) == "retired"
    assert release_status("d", "b", past) == "registered"
    assert release_status("b", "a", [rollout()]) == "canary"


def test_a_reading_is_shared_for_four_times_as_long_as_it_took() -> None:
    now = [0.0]
    readings: Recent[float] = Recent(lambda: now[0])

    def read() -> float:
        now[0] += 0.5
        return now[0]

    assert readings.get("a", read) == 0.5
    now[0] = 2.25
    assert readings.get("a", read) == 0.5
    assert readings.get("b", read) == 2.75
    assert readings.get("a", read) == 3.25


def test_no_reading_is_kept_for_longer_than_three_seconds() -> None:
    now = [0.0]
    readings: Recent[float] = Recent(lambda: now[0])

    def read() -> float:
        now[0] += 10.0
        return now[0]

    assert readings.get("a", read) == 10.0
    now[0] = 12.9
    assert readings.get("a", read) == 10.0
    now[0] = 13.1
    assert readings.get("a", read) == 23.1
