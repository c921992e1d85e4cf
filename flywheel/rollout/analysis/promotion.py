"""Promotion checks: proof that the challenger is not worse by more than the margins.

All of them must pass, so the chance of promoting a challenger that is worse in any one of them
by its whole margin is at most ``promote_alpha`` without a correction for their number
(intersection–union test, Berger 1982). Accuracy is looked at on a schedule of audited pairs
(``plan.look_sizes``) by an exact test at ``promote_alpha / looks`` each; where the audits up to a
look had unequal inclusion probabilities, by the largest capital of ``betting`` up to it, at the
same level. Errors and latency are shown by evidence that is valid at any look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flywheel.contracts.percentages import percentage
from flywheel.rollout.analysis import latency
from flywheel.rollout.analysis.evidence import Check, Facts
from flywheel.rollout.analysis.harm import columns, points
from flywheel.rollout.analysis.steps import Step, steps_of
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.plan import look_sizes
from flywheel.rollout.ports import ArmSummary
from flywheel.statistics import quantiles
from flywheel.statistics.betting import PairedEvidence
from flywheel.statistics.noninferiority import exact_p, lower_bound, upper_bound
from flywheel.statistics.rates import bounds, log_e_by_step, weighted_difference


def promotion_checks(
    facts: Facts, paired: PairedEvidence, settings: RolloutSettings, *, shown: bool = True
) -> tuple[Check, ...]:
    """Accuracy, errors and latency as proofs of non-inferiority. Intervals, which decide nothing,
    are worked out for what is ``shown``."""
    return (
        _accuracy(paired, settings, shown),
        _errors(facts.champion, facts.challenger, settings, shown),
        _latency(facts.champion, facts.challenger, settings, shown),
    )


def _accuracy(paired: PairedEvidence, settings: RolloutSettings, shown: bool) -> Check:
    margin, sizes = settings.accuracy_margin, look_sizes(settings)
    reached = [size for size in sizes if size <= paired.n]
    upcoming = next((size for size in sizes if size > paired.n), None)
    proven_at, proof = _proven_at(paired, reached, settings)
    a, b = int((paired.d > 0).sum()), int((paired.d < 0).sum())
    alpha = settings.promote_alpha / settings.looks
    low = lower_bound(a, b, paired.n, alpha) if shown else None
    high = upper_bound(a, b, paired.n, alpha) if shown else None
    least = "" if low is None else f" (at least {points(low)})"
    figures = f"{points(paired.mean)}{least} on {paired.n} audited samples"
    if proven_at is not None:
        words = (
            f"accuracy is proven within {percentage(margin)} points of the champion's, at the look "
            f"at {proven_at} audited samples ({proof}): {figures}"
        )
    elif upcoming is not None:
        words = (
            f"look {len(reached) + 1} of {len(sizes)} comes at {upcoming} audited samples; "
            f"now {figures}"
        )
    else:
        words = f"all {len(sizes)} looks are used without proof: {figures}"
    waiting = proven_at is None and upcoming is not None
    return Check(
        kind="promotion",
        name="accuracy",
        compares="share of right answers, challenger − champion, on the same audited samples",
        outcome="waiting" if waiting else "failed" if proven_at is None else "passed",
        words=words,
        value=paired.mean if paired.n else None,
        low=low,
        high=high,
        margin=-margin,
        n=paired.n,
    )


def _proven_at(
    paired: PairedEvidence, reached: list[int], settings: RolloutSettings
) -> tuple[int | None, str]:
    """The first scheduled look that proved non-inferiority, and by what.

    A look is at the first so many pairs and knows of no later one, so it says the same whenever
    the controller gets to it, and goes on saying it."""
    alpha = settings.promote_alpha / settings.looks
    for size in reached:
        proof = _proof(paired.first(size), settings.accuracy_margin, alpha)
        if proof:
            return size, proof
    return None, ""


def _proof(look: PairedEvidence, margin: float, alpha: float) -> str:
    """What proves at one look that the challenger is not worse by ``margin``; empty without."""
    if not look.equally_likely:
        capital, need = look.proof(-margin), math.log(1 / alpha)
        proven = capital >= need
        return f"capital {math.exp(capital):.0f}, needed {math.exp(need):.0f}" if proven else ""
    fixed, broken = int((look.d > 0).sum()), int((look.d < 0).sum())
    p = exact_p(fixed, broken, look.n, margin)
    return f"exact p = {p:.2g}, allowed {alpha:.2g}" if p <= alpha else ""


def _errors(
    champion: ArmSummary, challenger: ArmSummary, settings: RolloutSettings, shown: bool
) -> Check:
    need, margin = math.log(1 / settings.promote_alpha), settings.error_margin
    limit = percentage(margin)
    steps = steps_of(champion, challenger)
    counts = columns([step.executed for step in steps])
    x0, n0, x1, n1 = (int(column.sum()) for column in counts)
    rise = weighted_difference(*counts)
    proven, low, high = False, -1.0, 1.0
    if rise is not None:
        lower = partial(_log_e_errors, steps, above=False)
        proven = bool(lower(np.array([margin]))[0] >= need)
        if shown:
            low, high = bounds(partial(_log_e_errors, steps, above=True), lower, rise, need)
    figures = f"{x1} of {n1} answers failed, {x0} of {n0} with the champion"
    if rise is not None:
        figures += f" ({points(rise)} within each step)"
    return Check(
        kind="promotion",
        name="errors",
        compares="share of failed answers (live and shadow), challenger − champion, within each "
        "step",
        outcome="passed" if proven else "waiting",
        words=(
            f"the error rate is proven within {limit} points of the champion's: {figures}"
            if proven
            else f"a rise of the error rate by {limit} points is not excluded: {figures}"
        ),
        value=rise,
        low=low,
        high=high,
        margin=margin,
        n=n1,
    )


def _log_e_errors(
    steps: Sequence[Step], differences: NDArray[np.float64], *, above: bool
) -> NDArray[np.float64]:
    """Log of the mean of two e-values, which is an e-value: from live answers alone, and from
    shadow ones too. The latter are many more, but under load they fail first."""
    live, every = (
        log_e_by_step(*columns(counts), differences[:, None], above=above)
        for counts in ([step.live for step in steps], [step.executed for step in steps])
    )
    value: NDArray[np.float64] = np.logaddexp(live, every) - math.log(2)
    return value


def _latency(
    champion: ArmSummary, challenger: ArmSummary, settings: RolloutSettings, shown: bool
) -> Check:
    alpha, margin = settings.promote_alpha, settings.latency_margin
    pairs = latency.by_step(champion, challenger)
    old, new = quantiles.alike(pairs)
    proven = quantiles.log_e_not_slower(pairs, margin) >= math.log(1 / alpha)
    low, high = quantiles.ratio_interval(pairs, alpha) if shown else (None, None)
    p95_old, p95_new = old.quantile(0.95), new.quantile(0.95)
    words = "both arms must have answered before latencies compare"
    if p95_old is not None and p95_new is not None:
        figures = f"p95 {p95_new:.0f} ms against {p95_old:.0f} ms, on {new.n} of its answers"
        words = (
            f"p95 latency is proven below {margin:g} times the champion's: {figures}"
            if proven
            else f"a p95 latency of {margin:g} times the champion's is not excluded: {figures}"
        )
    return Check(
        kind="promotion",
        name="latency",
        compares="95th percentile of latency, challenger ÷ champion, within each step",
        outcome="passed" if proven else "waiting",
        words=words,
        value=p95_new / p95_old if p95_old and p95_new else None,
        low=low,
        high=high,
        margin=margin,
        n=new.n,
    )
