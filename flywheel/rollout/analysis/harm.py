"""Harm checks: run at every look, and able only to take traffic from the challenger.

``harm_alpha`` is split evenly over the three of them (Bonferroni); each is valid at any look, so
a challenger that is no worse in any of the three is rolled back with a probability of at most
``harm_alpha`` over the whole rollout, however often it was looked at.
"""

from __future__ import annotations

import math

from flywheel.rollout.analysis import latency
from flywheel.rollout.analysis.betting import PairedEvidence
from flywheel.rollout.analysis.evidence import Check, Facts, Outcome
from flywheel.rollout.analysis.proportions import difference_interval, log_e_difference
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.ports import ArmSummary

CHECKS = 3


def harm_checks(
    facts: Facts, paired: PairedEvidence, settings: RolloutSettings
) -> tuple[Check, ...]:
    """Accuracy, errors and latency, each at its share of ``harm_alpha``."""
    alpha = settings.harm_alpha / CHECKS
    return (
        _accuracy(paired, settings, alpha),
        _errors(facts.champion, facts.challenger, settings, alpha),
        _latency(facts.champion, facts.challenger, settings, alpha),
    )


def answered(arm: ArmSummary) -> tuple[int, int]:
    """(errors, requests) to judge an arm by: live ones, or shadow ones while there are no live."""
    if arm.requests:
        return arm.errors, arm.requests
    return arm.shadow_errors, arm.shadow_requests


def _outcome(proven: bool, n: int) -> Outcome:
    if proven:
        return "failed"
    return "passed" if n else "waiting"


def _accuracy(paired: PairedEvidence, settings: RolloutSettings, alpha: float) -> Check:
    margin = settings.harm_margin
    proven = paired.harm(-margin) >= math.log(1 / alpha)
    low, high = paired.interval(alpha)
    found = (
        f"{points(paired.mean)} on {paired.n} audited samples that both scored "
        f"({points(low)} to {points(high)})"
    )
    limit = "the champion's" if not margin else f"{margin * 100:.1f} points below the champion's"
    words = (
        f"accuracy is proven worse than {limit}: {found}"
        if proven
        else f"no loss of accuracy is proven: {found}"
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
    champion: ArmSummary, challenger: ArmSummary, settings: RolloutSettings, alpha: float
) -> Check:
    margin = settings.error_margin
    (x0, n0), (x1, n1) = answered(champion), answered(challenger)
    proven = bool(
        n0 and n1 and log_e_difference(x0, n0, x1, n1, margin, above=True) >= math.log(1 / alpha)
    )
    low, high = difference_interval(x0, n0, x1, n1, alpha)
    found = f"{x1} of {n1} requests failed, {x0} of {n0} with the champion"
    words = (
        f"the error rate is proven to have risen by more than {margin * 100:.1f} points: {found}"
        if proven
        else f"no rise of the error rate above {margin * 100:.1f} points is proven: {found}"
    )
    return Check(
        kind="harm",
        name="errors",
        compares="share of failed requests, challenger − champion",
        outcome=_outcome(proven, min(n0, n1)),
        words=words if n0 and n1 else "both arms must have answered before errors compare",
        value=x1 / n1 - x0 / n0 if n0 and n1 else None,
        low=low,
        high=high,
        margin=margin,
        n=n1,
    )


def _latency(
    champion: ArmSummary, challenger: ArmSummary, settings: RolloutSettings, alpha: float
) -> Check:
    margin = settings.latency_margin
    old, new = latency.of_arm(champion), latency.of_arm(challenger)
    proven = latency.log_e_slower(old, new, margin, alpha) >= math.log(2 / alpha)
    low, high = latency.ratio_interval(old, new, alpha)
    p95_old, p95_new = old.quantile(0.95), new.quantile(0.95)
    words = "both arms must have answered before latencies compare"
    if p95_old is not None and p95_new is not None:
        found = f"p95 {p95_new:.0f} ms against {p95_old:.0f} ms"
        words = (
            f"answers are proven slower than {margin:g} times the champion's p95: {found}"
            if proven
            else f"no rise of the p95 above {margin:g} times the champion's is proven: {found}"
        )
    return Check(
        kind="harm",
        name="latency",
        compares="95th percentile of latency, challenger ÷ champion",
        outcome=_outcome(proven, min(old.n, new.n)),
        words=words,
        value=p95_new / p95_old if p95_old and p95_new else None,
        low=low,
        high=high,
        margin=margin,
        n=new.n,
    )


def points(difference: float) -> str:
    """A difference of shares in signed percentage points."""
    return f"{difference * 100:+.1f} points"
