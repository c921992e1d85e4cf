"""Units and requests: who was drawn for which arm, and what share of the traffic that made.

A lot is drawn once for each unit, so a share of units is a share of requests only where units are
many and alike. One caller who sends everything under one name is one lot: it falls to the champion
and no request ever reaches the challenger, or to the challenger, which then answers them all.
"""

from __future__ import annotations

import math

import msgspec

from flywheel.contracts.split import AssignBy
from flywheel.rollout.analysis.evidence import Check, Facts
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.plan import percent
from flywheel.rollout.ports import Assignment, Rollout
from flywheel.statistics.sample_ratio import log_e_mismatch

# Of calling an assignment broken that is not, over all looks of a step.
MISMATCH_ALPHA = 0.001
NEEDED = math.log(1 / MISMATCH_ALPHA)


class UnitsView(msgspec.Struct, frozen=True, kw_only=True):
    """Who came in the present step, and what share of it the challenger really answered.

    ``share`` is what it was given, of the units; ``share_of_requests`` what that came to, None
    before the first request. ``warnings`` say where the two can't be alike, ``way_out`` what a
    person may do about it and what that costs; empty where there is nothing to do.
    """

    assign_by: AssignBy
    share: float
    units: int
    challenger_units: int
    requests: int
    challenger_requests: int
    share_of_requests: float | None
    heaviest_requests: int
    heaviest_share: float | None
    warnings: tuple[str, ...]
    way_out: str


def units_view(rollout: Rollout, step: Assignment, settings: RolloutSettings) -> UnitsView:
    """The units of a rollout's present step."""
    asked = step.requests
    warnings = _warnings(rollout, step, settings)
    return UnitsView(
        assign_by=settings.assign_by,
        share=rollout.share,
        units=step.units,
        challenger_units=step.challenger_units,
        requests=asked,
        challenger_requests=step.challenger_requests,
        share_of_requests=step.challenger_requests / asked if asked else None,
        heaviest_requests=step.heaviest_requests,
        heaviest_share=step.heaviest_requests / asked if asked else None,
        warnings=warnings,
        way_out=_way_out(rollout.task) if warnings and settings.assign_by == "user" else "",
    )


def validity_checks(rollout: Rollout, facts: Facts, settings: RolloutSettings) -> tuple[Check, ...]:
    """Whether units fell to the arms as they should, and what that means for requests."""
    return _assignment(rollout, facts.assignment), _traffic(rollout, facts.step, settings)


def _assignment(rollout: Rollout, seen: Assignment) -> Check:
    total, share = seen.units, rollout.share
    compares = "challenger's share of the units of this step against the share it was given"
    if not 0 < share < 1 or not total:
        return Check(
            kind="validity",
            name="assignment",
            compares=compares,
            outcome="waiting",
            words="no unit has been assigned in this step yet",
        )
    figures = f"{seen.challenger_units} of {total} units, {percent(share)} expected"
    if _evidence(seen.challenger_units, total, share) >= NEEDED:
        outcome = "failed"
        words = (
            f"the arms did not get their shares, so nothing they show can be compared: {figures}"
        )
    elif max(_evidence(0, total, share), _evidence(total, total, share)) < NEEDED:
        # Were one arm left out altogether, this many units could not show it.
        outcome, words = "waiting", f"too few units to tell whether the arms got theirs: {figures}"
    else:
        outcome, words = "passed", f"the arms got their shares: {figures}"
    return Check(
        kind="validity",
        name="assignment",
        compares=compares,
        outcome=outcome,  # type: ignore[arg-type]
        words=words,
        value=seen.challenger_units / total,
        margin=share,
        n=total,
    )


def _evidence(challenger: int, total: int, share: float) -> float:
    return float(log_e_mismatch(challenger, total, share))


def _traffic(rollout: Rollout, step: Assignment, settings: RolloutSettings) -> Check:
    seen = units_view(rollout, step, settings)
    words = "no request has been answered in this step yet"
    if seen.share_of_requests is not None:
        words = (
            f"{seen.challenger_requests} of {_many(seen.requests, 'request')} "
            f"({percent(seen.share_of_requests)}) of {_many(seen.units, 'unit')} went to the "
            f"challenger, {percent(rollout.share)} of the units were to"
        )
    return Check(
        kind="validity",
        name="traffic",
        compares="challenger's share of the requests of this step beside its share of the units",
        outcome="warning" if seen.warnings else "passed" if seen.requests else "waiting",
        words="; ".join(filter(None, (words, *seen.warnings, seen.way_out))),
        value=seen.share_of_requests,
        n=seen.requests,
    )


def _warnings(rollout: Rollout, step: Assignment, settings: RolloutSettings) -> tuple[str, ...]:
    """Said once there are enough requests for the step, had each been drawn by itself."""
    asked, share, units = step.requests, rollout.share, step.units
    if not 0 < share < 1 or asked < settings.min_requests:
        return ()
    warnings = []
    if step.heaviest_requests > settings.heavy_unit_share * asked:
        warnings.append(
            f"one unit sent {step.heaviest_requests} of {_many(asked, 'request')} "
            f"({percent(step.heaviest_requests / asked)}), more than "
            f"{percent(settings.heavy_unit_share)}: its lot alone decides which arm answers those"
        )
    if step.challenger_units < settings.min_units and asked * share >= settings.min_requests:
        warnings.append(
            f"{_many(units, 'unit')} {'is' if units == 1 else 'are'} too few for a lot each: "
            f"{step.challenger_units or 'none'} fell to the challenger, where a step needs "
            f"{settings.min_units}"
        )
    elif not step.challenger_units and units < 1 / share:
        warnings.append(
            f"none of {_many(units, 'unit')} fell to the challenger, and none will while no other "
            "units come: their lots stand for the whole step"
        )
    return tuple(warnings)


def _way_out(task: str) -> str:
    return (
        f'a person may set assign_by = "request" under [tasks.{task}.rollout] in flywheel.toml and '
        "restart the controller: each request is then drawn by itself, so the shares are exact, "
        "but one user may meet both models in turn"
    )


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
