"""Harm checks: run at every look, and able only to take traffic from the challenger.

``harm_alpha`` is split evenly over the three of them (Bonferroni); each is valid at any look, so
a challenger that is no worse in any of the three is rolled back with a probability of at most
``harm_alpha`` over the whole rollout, however often it was looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flywheel.contracts.percentages import percentage, signed_points
from flywheel.rollout.analysis import latency
from flywheel.rollout.analysis.evidence import Check, Facts, Outcome
from flywheel.rollout.analysis.steps import Counts, steps_of
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.ports import ArmSummary
from flywheel.statistics import quantiles
from flywheel.statistics.betting import PairedEvidence
from flywheel.statistics.rates import (
    bounds,
    log_e_by_step,
    log_e_in_steps,
    weighted_difference,
)

CHECKS = 3


def harm_checks(
    facts: Facts, paired: PairedEvidence, settings: RolloutSettings, *, shown: bool = True
) -> tuple[Check, ...]:
    """Accuracy, errors and latency, each at its share of ``harm_alpha``. Intervals, which decide
    nothing, are worked out for what is ``shown``."""
    alpha = settings.harm_alpha / CHECKS
    return (
        _accuracy(paired, settings, alpha, shown),
        _errors(facts.champion, facts.challenger, settings, alpha, shown),
        _latency(facts.champion, facts.challenger, settings, alpha, shown),
    )


def _outcome(proven: bool, n: int) -> Outcome:
    if proven:
        return "failed"
    return "passed" if n else "waiting"


def _accuracy(
    paired: PairedEvidence, settings: RolloutSettings, alpha: float, shown: bool
) -> Check:
    margin = settings.harm_margin
    proven = paired.harm(-margin) >= math.log(1 / alpha)
    low, high = paired.interval(alpha) if shown else (None, None)
    figures = f"{points(paired.mean)} on {paired.n} audited samples that both scored"
    if low is not None and high is not None:
        figures += f" ({points(low)} to {points(high)})"
    limit = "the champion's" if not margin else f"{percentage(margin)} points below the champion's"
    words = (
        f"accuracy is proven worse than {limit}: {figures}"
        if proven
        else f"no loss of accuracy is proven: {figures}"
    )
    return Check(
        kind="harm",
        name="accuracy",
        compares="share of right answers, challenger − champion, on the same audited samples",
        outcome=_outcome(proven, paired.n),
        words=words if paired.n else "no audited sample has been labelled yet",
        value=paired.mean if paired.n else None,
        low=low,
        high=high,
        margin=-margin,
        n=paired.n,
    )


def _errors(
    champion: ArmSummary,
    challenger: ArmSummary,
    settings: RolloutSettings,
    alpha: float,
    shown: bool,
) -> Check:
    margin, need = settings.error_margin, math.log(1 / alpha)
    counts = columns([step.answered for step in steps_of(champion, challenger)])
    rise = weighted_difference(*counts)
    proven, low, high = False, -1.0, 1.0
    if rise is not None:
        higher = partial(_evidence, log_e_in_steps, counts, above=True)
        proven = bool(higher(np.array([margin]))[0] >= need)
        if shown:
            lower = partial(_evidence, log_e_by_step, counts, above=False)
            low, high = bounds(higher, lower, rise, need)
    x0, n0, x1, n1 = (int(column.sum()) for column in counts)
    figures = f"{x1} of {n1} requests failed, {x0} of {n0} with the champion"
    if rise is not None:
        figures += f" ({points(rise)} within each step)"
    words = (
        f"the error rate is proven to have risen by more than {percentage(margin)} points: "
        f"{figures}"
        if proven
        else f"no rise of the error rate above {percentage(margin)} points is proven: {figures}"
    )
    return Check(
        kind="harm",
        name="errors",
        compares="share of failed requests, challenger − champion, within each step",
        outcome=_outcome(proven, 0 if rise is None else n1),
        words=words if rise is not None else "both arms must have answered before errors compare",
        value=rise,
        low=low,
        high=high,
        margin=margin,
        n=n1,
    )


def _evidence(
    test: Callable[..., NDArray[np.float64]],
    counts: tuple[Any, ...],
    differences: NDArray[np.float64],
    *,
    above: bool,
) -> NDArray[np.float64]:
    return test(*counts, differences[:, None], above=above)


def columns(steps: Sequence[tuple[Counts, Counts]]) -> tuple[Any, Any, Any, Any]:
    """(errors, requests) of the champion, then of the challenger, each an array over steps."""
    table = np.array([[*old, *new] for old, new in steps], float).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def _latency(
    champion: ArmSummary,
    challenger: ArmSummary,
    settings: RolloutSettings,
    alpha: float,
    shown: bool,
) -> Check:
    margin = settings.latency_margin
    pairs = latency.by_step(champion, challenger)
    old, new = quantiles.alike(pairs)
    proven = quantiles.log_e_slower(pairs, margin) >= math.log(1 / alpha)
    low, high = quantiles.ratio_interval(pairs, alpha) if shown else (None, None)
    p95_old, p95_new = old.quantile(0.95), new.quantile(0.95)
    words = "both arms must have answered before latencies compare"
    if p95_old is not None and p95_new is not None:
        figures = f"p95 {p95_new:.0f} ms against {p95_old:.0f} ms"
        words = (
            f"answers are proven slower than {margin:g} times the champion's p95: {figures}"
            if proven
            else f"no rise of the p95 above {margin:g} times the champion's is proven: {figures}"
        )
    return Check(
        kind="harm",
        name="latency",
        compares="95th percentile of latency, challenger ÷ champion, within each step",
        outcome=_outcome(proven, new.n),
        words=words,
        value=p95_new / p95_old if p95_old and p95_new else None,
        low=low,
        high=high,
        margin=margin,
        n=new.n,
    )


def points(difference: float) -> str:
    """A difference of shares in signed percentage points."""
    return f"{signed_points(difference)} points"
