"""A share of units is not a share of requests: one caller, few, heavy ones, and the way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_memory import START, arm, pairs

from flywheel.contracts.ids import unit_fraction
from flywheel.contracts.split import AssignBy, TrafficSplit
from flywheel.gateway.choose_variant import choose_variant, unit_of
from flywheel.rollout.analysis.assess import assess
from flywheel.rollout.analysis.evidence import Check, Facts
from flywheel.rollout.analysis.units import UnitsView, units_view
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.decide import decide
from flywheel.rollout.plan import split_of
from flywheel.rollout.ports import Assignment, Rollout

SETTINGS = RolloutSettings(steps=(0.1, 0.5), min_requests=20, min_labels=20)
BY_REQUEST = SETTINGS.model_copy(update={"assign_by": "request"})
ROLLOUT = Rollout(
    rollout_id="ro",
    task="topics",
    champion="r1",
    challenger="r2",
    state="canary",
    step=0,
    share=0.1,
    started_at=START,
    step_started_at=START,
    steps=SETTINGS.steps,
)


def callers(requests: dict[str, int], settings: RolloutSettings = SETTINGS) -> Assignment:
    """What callers come to who send so many requests each, drawn as the gateway draws."""
    split = split_of(ROLLOUT, settings)
    got = {"champion": {}, "challenger": {}}  # type: dict[str, dict[str, int]]
    for user, count in requests.items():
        for number in range(count):
            unit = unit_of(split, user or f"s{number}", f"{user}-{number}")
            drawn = got[choose_variant(split, unit).arm or ""]
            drawn[unit] = drawn.get(unit, 0) + 1
    old, new = got["champion"], got["challenger"]
    return Assignment(
        champion_requests=sum(old.values()),
        challenger_requests=sum(new.values()),
        champion_units=len(old),
        challenger_units=len(new),
        heaviest_requests=max([*old.values(), *new.values()], default=0),
    )


def viewed(step: Assignment, settings: RolloutSettings = SETTINGS) -> UnitsView:
    return units_view(ROLLOUT, step, settings)


def checked(step: Assignment, settings: RolloutSettings = SETTINGS) -> dict[str, Check]:
    found = assess(ROLLOUT, Facts(step=step, assignment=step), settings)
    return {f"{check.kind} {check.name}": check for check in found.checks}


def unlucky(rollout: Rollout, count: int) -> list[str]:
    """Names of users whose lot falls to the champion."""
    names = (f"user-{n}" for n in range(100 * count))
    drawn = [name for name in names if unit_fraction(rollout.rollout_id, name) >= rollout.share]
    return drawn[:count]


def test_one_caller_is_one_unit_and_the_page_says_so() -> None:
    # As it was seen: 60 of 60 to the champion, "0 of 20", validity "passed: 0 of 1 units".
    (name,) = unlucky(ROLLOUT, 1)
    step = callers({name: 60})
    found = viewed(step)
    assert (found.units, found.requests, found.challenger_requests) == (1, 60, 0)
    assert (found.share_of_requests, found.heaviest_share) == (0.0, 1.0)
    heavy, none = found.warnings
    assert "one unit sent 60 of 60 requests (100%), more than 20%" in heavy
    assert "none of 1 unit fell to the challenger" in none
    assert 'assign_by = "request" under [tasks.topics.rollout]' in found.way_out
    assert "one user may meet both models" in found.way_out
    checks = checked(step)
    assert checks["validity assignment"].outcome == "waiting"
    assert "too few units" in checks["validity assignment"].words
    assert checks["validity traffic"].outcome == "warning"
    assert "0 of 60 requests (0%) of 1 unit" in checks["validity traffic"].words
    assert found.way_out in checks["validity traffic"].words


def test_one_caller_whose_lot_is_the_challenger_leaves_no_step() -> None:
    name = next(n for n in map(str, range(99)) if unit_fraction("ro", n) < 0.1)
    step = callers({name: 100})
    facts = Facts(
        champion=arm(0, shadow=100),
        challenger=arm(100),
        pairs=tuple(pairs([0] * 20)),
        assignment=step,
        step=step,
    )
    decision = decide(ROLLOUT, facts, SETTINGS, START)
    assert (decision.state, decision.step) == ("canary", 0)
    assert "units: 1 of 5" in decision.next
    assert viewed(step).share_of_requests == 1.0
    assert "1 unit is too few for a lot each" not in "".join(viewed(step).warnings)


def test_few_callers_are_too_few_for_a_step() -> None:
    step = callers(dict.fromkeys(unlucky(ROLLOUT, 12), 20))
    assert viewed(step).warnings[0] == (
        "12 units are too few for a lot each: none fell to the challenger, where a step needs 5"
    )
    assert viewed(step).way_out
    assert checked(step)["step units"].words == "0 of 5"


@pytest.mark.parametrize(("sent", "warned"), [(60, True), (30, False)])
def test_a_caller_with_more_than_the_stated_share_is_warned_of(sent: int, warned: bool) -> None:
    step = callers({f"user-{n}": 1 for n in range(140)} | {"the-app": sent})
    assert [words[:26] for words in viewed(step).warnings] == (
        [f"one unit sent {sent} of 200 req"[:26]] if warned else []
    )
    assert bool(viewed(step).way_out) is warned
    lenient = SETTINGS.model_copy(update={"heavy_unit_share": 0.9})
    assert viewed(step, lenient).warnings == ()


def test_a_caller_who_names_nobody_is_warned_of_nothing() -> None:
    found = viewed(callers({"": 400}))
    assert (found.units, found.heaviest_requests, found.warnings) == (400, 1, ())
    assert checked(callers({"": 400}))["validity assignment"].outcome == "passed"


def test_before_there_is_anything_to_say_nothing_is_said() -> None:
    assert viewed(Assignment()).warnings == viewed(callers({"one": 3})).warnings == ()
    assert viewed(Assignment()).share_of_requests is None
    assert checked(Assignment())["validity traffic"].outcome == "waiting"


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 60), max_size=12),
    st.sampled_from(["user", "request"]),
)
def test_what_is_shown_is_what_was_drawn(sent: dict[str, int], assign_by: AssignBy) -> None:
    settings = SETTINGS.model_copy(update={"assign_by": assign_by})
    found = viewed(callers(sent, settings), settings)
    total = sum(sent.values())
    assert found.requests == total
    assert found.units == (total if assign_by == "request" else len(sent))
    if assign_by == "request" and total >= 20:
        assert found.heaviest_requests == 1
        assert found.way_out == "", "it is chosen already"
    if found.share_of_requests == 0 and total * 0.1 >= SETTINGS.min_requests:
        assert found.warnings, "for ever at 0 of 20, without a word"


def test_by_request_one_caller_gives_the_challenger_its_share() -> None:
    step = callers({"the-app": 2000}, BY_REQUEST)
    assert abs(step.challenger_requests / 2000 - 0.1) < 0.03
    assert viewed(step, BY_REQUEST).warnings == ()
    assert checked(step, BY_REQUEST)["validity assignment"].outcome == "passed"


def test_the_setting_reaches_the_gateway_and_old_splits_are_by_user() -> None:
    assert split_of(ROLLOUT, BY_REQUEST).assign_by == "request"
    assert split_of(ROLLOUT, SETTINGS).assign_by == "user"
    assert TrafficSplit(task="t", champion="r1").assign_by == "user"


def test_an_assignment_that_is_broken_still_fails() -> None:
    step = Assignment(
        champion_requests=100, challenger_requests=60, champion_units=100, challenger_units=60
    )
    assert checked(step)["validity assignment"].outcome == "failed"
