"""The rollout page's read model: the stage's view, and its evidence laid out on axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flywheel.console.ports import ConsoleTransaction
from flywheel.console.words import aware
from flywheel.errors import NotFound
from flywheel.rollout.analysis.evidence import Check
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.ports import Rollout
from flywheel.rollout.view import RolloutView, rollout_view, task_view

WIDTH = 100.0  # of an axis: positions are percentages of whatever it measures on screen
CHECK_GROUPS = (
    ("harm", "Harm", "looked at all the time; proof of it rolls back at once"),
    ("validity", "Validity", "whether the arms can be compared at all"),
    ("step", "This step", "needed before the share rises"),
    ("promotion", "Promotion", "proof that it is no worse by more than the margins"),
)
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


def rollout_page(
    tx: ConsoleTransaction, task: str, settings: RolloutSettings, rollout_id: str, now: datetime
) -> dict[str, Any]:
    """What the page shows: the running rollout, else the latest one, else the one asked for.

    Raises NotFound for a ``rollout_id`` that the task does not have.
    """
    view = task_view(tx, task, settings, now)
    past = tx.rollouts.history(task)
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
        "intervals": intervals(shown) if shown else [],
        "steps": steps(shown.rollout) if shown else [],
        "groups": _groups(shown) if shown else [],
        "looks": looks(shown) if shown else [],
        "in_state": _in_state(shown, now),
        "rollout_settings": settings,
    }


def _in_state(shown: RolloutView | None, now: datetime) -> float | None:
    if shown is None or shown.rollout.ended_at is not None:
        return None
    return max(0.0, (now - aware(shown.rollout.step_started_at)).total_seconds())


def _groups(view: RolloutView) -> list[tuple[str, str, list[Check]]]:
    # An ended rollout has no step to leave any more.
    kinds = [k for k in CHECK_GROUPS if view.rollout.ended_at is None or k[0] != "step"]
    return [
        (title, words, [check for check in view.checks if check.kind == kind])
        for kind, title, words in kinds
    ]


def steps(rollout: Rollout) -> list[Step]:
    """Warm, shadow, each share, and the end, with where this rollout stands."""
    names = ["Warm up", "Shadow"]
    names += [f"{share * 100:.3g}\u202f%" for share in rollout.steps]
    if not rollout.steps:
        names = ["Load"]  # a former champion is restored
    state = rollout.resume_to or rollout.state if rollout.state == "paused" else rollout.state
    at = {"warming": 0, "shadow": 1}.get(state, 2 + max(rollout.step, 0))
    if rollout.ended_at is not None and rollout.step < 0:
        at = 1
    at = min(at, len(names) - 1)
    result = []
    for index, name in enumerate(names):
        if rollout.state == "promoted" or index < at:
            mark = "done"
        elif index == at:
            mark = {"rolled_back": "bad", "paused": "held"}.get(rollout.state, "now")
        else:
            mark = ""
        note = {"held": "held here", "bad": "rolled back here"}.get(mark, "")
        result.append(Step(name, mark, note or ("copies of requests" if index == 1 else "")))
    result.append(Step("Champion", "done" if rollout.state == "promoted" else ""))
    return result


def looks(view: RolloutView) -> list[tuple[int, bool]]:
    """(audited samples, whether it was reached) of every scheduled look at promotion."""
    return [(size, index < view.paired.looks_used) for index, size in enumerate(view.paired.looks)]


def intervals(view: RolloutView) -> list[Interval]:
    """Accuracy, errors and latency as proofs of non-inferiority, each on its own axis."""
    found = {check.name: check for check in view.checks if check.kind == "promotion"}
    return [
        _interval(found[name], _TITLES[name])
        for name in ("accuracy", "errors", "latency")
        if name in found
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
