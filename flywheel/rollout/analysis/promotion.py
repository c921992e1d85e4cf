"""Promotion checks: proof that the challenger is not worse by more than the margins.

All of them must pass, so the chance of promoting a challenger that is worse in any one of them
by its whole margin is at most ``promote_alpha`` without a correction for their number
(intersection–union test, Berger 1982). Accuracy is looked at on a schedule of audited pairs
(``plan.look_sizes``); errors and latency by evidence that is valid at any look.
"""

from __future__ import annotations

import math

from flywheel.rollout.analysis import latency
from flywheel.rollout.analysis.betting import PairedEvidence
from flywheel.rollout.analysis.evidence import Check, Facts
from flywheel.rollout.analysis.harm import points
from flywheel.rollout.analysis.proportions import difference_interval, log_e_difference
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.plan import look_sizes
from flywheel.rollout.ports import ArmSummary


def promotion_checks(
    facts: Facts, paired: PairedEvidence, settings: RolloutSettings
) -> tuple[Check, ...]:
    """Accuracy, errors and latency as proofs of non-inferiority."""
    return (
        _accuracy(paired, settings),
        _errors(facts.champion, facts.challenger, settings),
        _latency(facts.champion, facts.challenger, settings),
    )


def _accuracy(paired: PairedEvidence, settings: RolloutSettings) -> Check:
    alpha, margin = settings.promote_alpha, settings.accuracy_margin
    sizes = look_sizes(settings)
    reached = [size for size in sizes if size <= paired.n]
    upcoming = next((size for size in sizes if size > paired.n), None)
    proven = bool(reached) and paired.proof(-margin, reached) >= math.log(1 / alpha)
    low, high = paired.interval(2 * alpha)
    found = f"{points(paired.mean)} (at least {points(low)}) on {paired.n} audited samples"
    if proven:
        words = f"accuracy is proven within {margin * 100:.1f} points of the champion's: {found}"
    elif upcoming is not None:
        words = (
            f"look {len(reached) + 1} of {len(sizes)} comes at {upcoming} audited samples; "
            f"now {found}"
        )
    else:
        words = f"all {len(sizes)} looks are used without proof: {found}"
    return Check(
        kind="promotion",
        name="accuracy",
        compares="share of right answers, challenger − champion, on the same audited samples",
        outcome="passed" if proven else "waiting" if upcoming is not None else "failed",
        words=words,
        value=paired.mean if paired.n else None,
        low=low,
        high=high,
        margin=-margin,
        n=paired.n,
    )


def _executed(arm: ArmSummary) -> tuple[int, int]:
    """(errors, requests), live and shadow: both show whether a release can answer."""
    return arm.errors + arm.shadow_errors, arm.requests + arm.shadow_requests


def _errors(champion: ArmSummary, challenger: ArmSummary, settings: RolloutSettings) -> Check:
    alpha, margin = settings.promote_alpha, settings.error_margin
    (x0, n0), (x1, n1) = _executed(champion), _executed(challenger)
    proven = bool(
        n0 and n1 and log_e_difference(x0, n0, x1, n1, margin, above=False) >= math.log(1 / alpha)
    )
    low, high = difference_interval(x0, n0, x1, n1, 2 * alpha)
    found = f"{x1} of {n1} answers failed, {x0} of {n0} with the champion"
    return Check(
        kind="promotion",
        name="errors",
        compares="share of failed answers (live and shadow), challenger − champion",
        outcome="passed" if proven else "waiting",
        words=(
            f"the error rate is proven within {margin * 100:.1f} points of the champion's: {found}"
            if proven
            else f"a rise of the error rate by {margin * 100:.1f} points is not excluded: {found}"
        ),
        value=x1 / n1 - x0 / n0 if n0 and n1 else None,
        low=low,
        high=high,
        margin=margin,
        n=n1,
    )


def _latency(champion: ArmSummary, challenger: ArmSummary, settings: RolloutSettings) -> Check:
    alpha, margin = settings.promote_alpha, settings.latency_margin
    old, new = latency.of_arm(champion), latency.of_arm(challenger)
    proven = latency.log_e_not_slower(old, new, margin, alpha) >= math.log(2 / alpha)
    p95_old, p95_new = old.quantile(0.95), new.quantile(0.95)
    words = "both arms must have answered before latencies compare"
    if p95_old is not None and p95_new is not None:
        found = f"p95 {p95_new:.0f} ms on {new.n} answers against {p95_old:.0f} ms on {old.n}"
        words = (
            f"p95 latency is proven below {margin:g} times the champion's: {found}"
            if proven
            else f"a p95 latency of {margin:g} times the champion's is not excluded: {found}"
        )
    return Check(
        kind="promotion",
        name="latency",
        compares="95th percentile of latency, challenger ÷ champion",
        outcome="passed" if proven else "waiting",
        words=words,
        value=p95_new / p95_old if p95_old and p95_new else None,
        margin=margin,
        n=new.n,
    )
