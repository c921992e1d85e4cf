"""How the console puts numbers into words, and evidence on axes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.console.recent import Recent
from flywheel.console.rollout_page import WIDTH, steps
from flywheel.console.rollout_page import _interval as interval
from flywheel.console.words import count, duration, percent, points, share, short, size
from flywheel.rollout.analysis.evidence import Check
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.ports import Rollout, Transition

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


def told(*states: tuple[str, float]) -> list[Transition]:
    return [
        Transition(rollout_id="r", at=NOW, state=state, share=share, decided_by="x", reason="")  # type: ignore[arg-type]
        for state, share in states
    ]


WARM, SHADOW = ("warming", 0.0), ("shadow", 0.0)
FIRST, SECOND, THIRD = ("canary", 0.05), ("canary", 0.25), ("canary", 0.5)


@pytest.mark.parametrize(
    ("changes", "went", "expected"),
    [
        ({"state": "warming", "step": -1}, [WARM], "Warm up:now 5: 25: 50: Champion:"),
        (
            {"state": "shadow", "step": -1},
            [WARM, SHADOW],
            "Warm up:done Shadow:now 5: 25: 50: Champion:",
        ),
        ({}, [WARM, FIRST, SECOND], "Warm up:done 5:done 25:now 50: Champion:"),
        (
            {"state": "paused", "resume_to": "canary"},
            [WARM, FIRST, SECOND, ("paused", 0.25)],
            "Warm up:done 5:done 25:held 50: Champion:",
        ),
        (
            {"state": "rolled_back", "ended_at": NOW},
            [WARM, FIRST, ("rolled_back", 0.0)],
            "Warm up:done 5:bad 25: 50: Champion:",
        ),
        (
            {"state": "rolled_back", "ended_at": NOW, "step": -1},
            [WARM, ("rolled_back", 0.0)],
            "Warm up:bad 5: 25: 50: Champion:",
        ),
        (
            {"state": "promoted", "step": 2, "ended_at": NOW},
            [WARM, FIRST, SECOND, THIRD, ("promoted", 0.0)],
            "Warm up:done 5:done 25:done 50:done Champion:done",
        ),
        (
            {"state": "promoted", "step": 0, "ended_at": NOW},
            [WARM, FIRST, ("promoted", 0.0)],
            "Warm up:done 5:done 25:skipped 50:skipped Champion:done",
        ),
        (
            {"state": "promoted", "step": -1, "ended_at": NOW, "steps": ()},
            [WARM, ("promoted", 0.0)],
            "Load:done Champion:done",
        ),
        (
            {"state": "serving", "step": -1, "ended_at": NOW},
            [("serving", 0.0)],
            "Champion:done",
        ),
    ],
)
def test_the_plan_shows_what_ran_and_where_a_rollout_stands(
    changes: dict[str, object], went: list[tuple[str, float]], expected: str
) -> None:
    found = steps(rollout(**changes), told(*went), RolloutSettings())
    shown = [
        f"{step.name.replace(chr(0x202F) + '%', '')}:"
        + (step.state or ("skipped" if step.note == "skipped" else ""))
        for step in found
    ]
    assert " ".join(shown) == expected


def test_a_shadow_that_is_still_to_come_is_in_the_plan() -> None:
    asked = RolloutSettings(shadow_requests=10)
    found = steps(rollout(state="warming", step=-1), told(WARM), asked)
    assert [step.name for step in found][:2] == ["Warm up", "Shadow"]


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
