"""The rollout page's read model: the stage's view, and its evidence laid out on axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flywheel.console.ports import ConsoleTransaction
from flywheel.console.words import aware
from flywheel.console.words import share as share_words
from flywheel.errors import NotFound
from flywheel.rollout.analysis.evidence import Check
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.judged import RunningJudged
from flywheel.rollout.plan import final_share
from flywheel.rollout.ports import CommandRecord, Rollout, Transition
from flywheel.rollout.view import SHOWN, RolloutView, TaskView, rollout_view, task_view

WIDTH = 100.0  # of an axis: positions are percentages of whatever it measures on screen
CHECK_GROUPS = (
    ("harm", "Harm", "looked at all the time; proof of it rolls back at once"),
    ("validity", "Validity", "whether the arms can be compared at all"),
    ("step", "This step", "needed before the share rises"),
    ("promotion", "Promotion", "proof that it is no worse by more than the margins"),
)
GOING = ("warming", "shadow", "canary")
LATE_SECONDS = 10.0  # after which whoever asked is told that nobody has carried it out
RECENT_SECONDS = 120.0
_TITLES = {"accuracy": "Accuracy", "errors": "Error rate", "latency": "p95 latency"}


@dataclass(frozen=True, slots=True)
class Interval:
    """One measure on its axis: positions from 0 to ``WIDTH``, and what is written beside them.

    ``better`` is the side on which the challenger wins: ``right`` or ``left``.
    """

    name: str
    compares: str
    unit: str
    words: str
    outcome: str
    better: str
    ticks: tuple[tuple[float, str], ...]
    neutral: float
    margin: float
    margin_words: str
    bad: tuple[float, float]
    value: float | None
    low: float | None
    high: float | None
    value_words: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the plan: its words, and done, now, bad, held or to come."""

    name: str
    state: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A command as the page tells of it, ``waited`` seconds after it was asked for."""

    asked: CommandRecord
    waited: float

    @property
    def late(self) -> bool:
        """Whether nobody has carried it out in a time that is none for a controller that runs."""
        return self.asked.outcome is None and self.waited > LATE_SECONDS


def rollout_page(
    tx: ConsoleTransaction,
    task: str,
    settings: RolloutSettings,
    rollout_id: str,
    now: datetime,
    skip: int = 0,
    judged: RunningJudged | None = None,
) -> dict[str, Any]:
    """What the page shows: the running rollout, else the latest one, else the one asked for; below
    it those of the past, without the newest ``skip``. ``judged`` as of ``task_view``.

    Raises NotFound for a ``rollout_id`` that the task does not have.
    """
    view = task_view(tx, task, settings, now, skip, judged)
    past = tx.rollouts.history(task, 1)
    shown = view.active
    if rollout_id and (shown is None or shown.rollout.rollout_id != rollout_id):
        chosen = tx.rollouts.find(rollout_id)
        if chosen is None or chosen.task != task:
            raise NotFound(f"no rollout {rollout_id!r} of task {task!r}")
        shown = rollout_view(tx, chosen, settings, now)
    elif shown is None and past:
        shown = rollout_view(tx, past[0], settings, now)
    return {
        "view": view,
        "shown": shown,
        "running": shown is not None and shown.rollout.ended_at is None,
        "challenger_share": final_share(shown.rollout) if shown else 0.0,
        "intervals": intervals(shown.checks) if shown else [],
        "steps": steps(shown.rollout, shown.transitions, settings) if shown else [],
        "groups": _groups(shown) if shown else [],
        "proven": shown is not None and _proven(shown.checks),
        "story": _story(shown) if shown else [],
        "in_state": _in_state(shown, now),
        "outcomes": _outcomes(view, now),
        "page_size": SHOWN,
        "rollout_settings": settings,
    }


def _in_state(shown: RolloutView | None, now: datetime) -> float | None:
    if shown is None or shown.rollout.ended_at is not None:
        return None
    began = [change.at for change in shown.transitions[-1:]] or [shown.rollout.step_started_at]
    return max(0.0, (now - aware(began[0])).total_seconds())


def _proven(checks: Sequence[Check]) -> bool:
    promotion = [check for check in checks if check.kind == "promotion"]
    return bool(promotion) and all(check.outcome == "passed" for check in promotion)


def _story(view: RolloutView) -> list[tuple[datetime, Transition | None, CommandRecord | None]]:
    """Decisions, and what was asked for and not carried out, newest first."""
    changes = [(aware(change.at), change, None) for change in view.transitions]
    refused = [(aware(one.command.at), None, one) for one in view.refused]
    return sorted([*changes, *refused], key=lambda one: one[0])[::-1]


def _outcomes(view: TaskView, now: datetime) -> list[Outcome]:
    """Commands that wait, and what became of those of the last minutes; newest first."""
    return [
        Outcome(one, waited)
        for one in view.asked
        if (waited := (now - aware(one.command.at)).total_seconds()) < RECENT_SECONDS
        or one.outcome is None
    ]


def _groups(view: RolloutView) -> list[tuple[str, str, list[Check]]]:
    # An ended rollout has no step to leave any more.
    kinds = [k for k in CHECK_GROUPS if view.rollout.ended_at is None or k[0] != "step"]
    return [
        (title, words, [check for check in view.checks if check.kind == kind])
        for kind, title, words in kinds
    ]


def steps(
    rollout: Rollout, transitions: Sequence[Transition], settings: RolloutSettings
) -> list[Step]:
    """Warm up, shadow where there is one, each share, and the end: what ran of them, as the
    rollout's decisions say, and where it stands."""
    went = [(one.state, one.share) for one in transitions if one.state in GOING]
    shadowed = ("shadow", 0.0) in went
    plan = [("warming", 0.0, "Warm up" if rollout.steps else "Load")]
    if shadowed or (rollout.steps and settings.shadow_requests and rollout.ended_at is None):
        plan.append(("shadow", 0.0, "Shadow"))
    plan += [("canary", share, share_words(share)) for share in rollout.steps]
    if rollout.state == "serving":
        plan, went = [], []  # the first release had nobody to take over from
    now = went[-1] if went else ("warming", 0.0)
    at = next((i for i, (*key, _) in enumerate(plan) if tuple(key) == now), 0)
    result = []
    for index, (state, share, name) in enumerate(plan):
        mark, note = "", "copies of requests" if state == "shadow" else ""
        if index == at and rollout.state != "promoted":
            mark = {"rolled_back": "bad", "paused": "held"}.get(rollout.state, "now")
        elif (state, share) in went:
            mark = "done"
        elif index < at or rollout.state == "promoted":
            note = "skipped"
        note = {"held": "held here", "bad": "rolled back here"}.get(mark, note)
        result.append(Step(name, mark, note))
    result.append(Step("Champion", "done" if rollout.state in ("promoted", "serving") else ""))
    return result


def intervals(checks: Sequence[Check]) -> list[Interval]:
    """Accuracy, errors and latency, each on its own axis with the interval that decides: of the
    harm where that is proven, else of the proof that it is no worse."""
    by_name = {check.name: check for check in checks if check.kind == "promotion"}
    by_name |= {
        check.name: check for check in checks if check.kind == "harm" and check.outcome == "failed"
    }
    return [
        _interval(by_name[name], _TITLES[name])
        for name in ("accuracy", "errors", "latency")
        if name in by_name
    ]


def _interval(check: Check, title: str) -> Interval:
    ratio = check.name == "latency"
    neutral, scale = (1.0, 1.0) if ratio else (0.0, 100.0)
    margin = check.margin if check.margin is not None else neutral
    known = [value for value in (check.value, check.low, check.high) if value is not None]
    if check.value is None:
        known = []  # without data an interval spans everything and says nothing
    start, end = _domain([neutral, margin, *known], neutral, margin)

    def place(value: float) -> float:
        return round(min(max((value - start) / (end - start), 0.0), 1.0) * WIDTH, 2)

    better = "right" if margin < neutral else "left"
    edge = place(margin)
    bounded = check.value is not None and (check.low, check.high) != (None, None)
    sign = "" if ratio else "+"
    return Interval(
        name=title,
        compares=check.compares,
        unit="times the champion’s" if ratio else "percentage points against the champion",
        words=check.words,
        outcome=check.outcome,
        better=better,
        ticks=tuple((place(tick), _number(tick * scale, sign)) for tick in _ticks(start, end)),
        neutral=place(neutral),
        margin=edge,
        margin_words=f"margin {_number(margin * scale, sign)}" + (" ×" if ratio else ""),
        bad=(0.0, edge) if better == "right" else (edge, round(WIDTH - edge, 2)),
        value=place(check.value) if check.value is not None else None,
        # A side without a bound is open: it runs to the end of the axis.
        low=(0.0 if check.low is None else place(check.low)) if bounded else None,
        high=(WIDTH if check.high is None else place(check.high)) if bounded else None,
        value_words=_reading(check, scale, ratio),
    )


def _reading(check: Check, scale: float, ratio: bool) -> str:
    if check.value is None:
        return "no data yet"
    if ratio:
        return f"{check.value:.2f} ×"
    words = f"{_number(check.value * scale, '+')} points"
    if check.low is not None and check.high is not None:
        low, high = _number(check.low * scale, "+"), _number(check.high * scale, "+")
        words += f" ({low} to {high})"
    return words


def _number(value: float, sign: str) -> str:
    """Signed, with a real minus, and no decimals that say nothing."""
    rounded = round(value, 2 if not sign else 1)
    if rounded == 0:
        return "0"
    return f"{rounded:{sign}g}".replace("-", "−")


def _domain(values: list[float], neutral: float, margin: float) -> tuple[float, float]:
    """The axis: all values, no less than twice the margin to either side, no more than useful."""
    reach = abs(margin - neutral)
    low = max(min(*values, neutral - 1.6 * reach), neutral - 8 * reach)
    high = min(max(*values, neutral + 1.6 * reach), neutral + 8 * reach)
    pad = (high - low) * 0.06
    return low - pad, high + pad


def _ticks(start: float, end: float) -> list[float]:
    """Round numbers inside the axis, some six of them."""
    raw = (end - start) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(start / step)
    return [round(index * step, 10) for index in range(first, math.floor(end / step) + 1)]
