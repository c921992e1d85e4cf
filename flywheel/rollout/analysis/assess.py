"""All checks of a rollout at one moment."""

from __future__ import annotations

import math

from flywheel.rollout.analysis import latency
from flywheel.rollout.analysis.evidence import Assessment, Check, Facts, differences
from flywheel.rollout.analysis.harm import harm_checks, points
from flywheel.rollout.analysis.promotion import promotion_checks
from flywheel.rollout.analysis.steps import steps_of
from flywheel.rollout.analysis.units import validity_checks
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.plan import look_sizes, percent, step_labels
from flywheel.rollout.ports import Rollout
from flywheel.statistics import quantiles
from flywheel.statistics.betting import PairedEvidence

STRICT = ("harm", "accuracy")


def assess(
    rollout: Rollout, facts: Facts, settings: RolloutSettings, *, shown: bool = True
) -> Assessment:
    """Every check there is for this rollout, whatever its state; with the intervals that decide
    nothing, where it is ``shown``: they cost ten times the rest."""
    paired = PairedEvidence(*differences(facts.pairs))
    sizes = look_sizes(settings)
    harm = harm_checks(facts, paired, settings, shown=shown)
    promotion = promotion_checks(facts, paired, settings, shown=shown)
    worries = _worries(facts, paired, settings) or _beyond((*promotion, *harm))
    return Assessment(
        checks=(
            *harm,
            *validity_checks(rollout, facts, settings),
            *_step_checks(rollout, facts, paired.n, worries, settings),
            *promotion,
        ),
        pairs=paired.n,
        looks_used=sum(size <= paired.n for size in sizes),
        next_look=next((size for size in sizes if size > paired.n), None),
    )


def _step_checks(
    rollout: Rollout, facts: Facts, pairs: int, worries: list[str], settings: RolloutSettings
) -> tuple[Check, ...]:
    shadow = rollout.state == "shadow" or rollout.resume_to == "shadow"
    need = settings.shadow_requests if shadow else settings.min_requests
    got = facts.challenger.shadow_requests if shadow else facts.step.challenger_requests
    units = 0 if shadow else settings.min_units
    labels = 0 if shadow else step_labels(settings, rollout.steps, max(rollout.step, 0))
    return (
        _count("requests", "challenger's answers in this step", got, need),
        _count("units", "units whose lot fell to it", facts.step.challenger_units, units),
        _count("labels", "audited samples that both arms scored", pairs, labels),
        Check(
            kind="step",
            name="no worry",
            compares="each estimate against its margin",
            outcome="waiting" if worries else "passed",
            words="; ".join(worries) or "no estimate lies beyond its margin",
        ),
    )


def _count(name: str, compares: str, got: int, need: int) -> Check:
    return Check(
        kind="step",
        name=name,
        compares=compares,
        outcome="passed" if got >= need else "waiting",
        words=f"{got} of {need}",
        value=float(got),
        margin=float(need),
        n=got,
    )


def _worries(facts: Facts, paired: PairedEvidence, settings: RolloutSettings) -> list[str]:
    """Estimates beyond a margin by more than one standard error, errors and latency in the present
    step: no proof, but no step up."""
    worries: list[str] = []
    if paired.n >= 5 and paired.mean + paired.standard_error < -settings.accuracy_margin:
        worries.append(f"accuracy looks worse ({points(paired.mean)} on {paired.n} samples)")
    steps = steps_of(facts.champion, facts.challenger)
    if not steps:
        return worries
    (x0, n0), (x1, n1) = steps[-1].answered
    if n0 and n1:
        rise, error = x1 / n1 - x0 / n0, math.sqrt(x1 / n1 * (1 - x1 / n1) / n1)
        if rise - error > settings.error_margin:
            worries.append(f"errors look higher ({x1} of {n1} against {x0} of {n0})")
    for old, new in latency.by_step(facts.champion, facts.challenger)[-1:]:
        p95 = old.quantile(0.95)
        slow = 0.0 if p95 is None else new.slower(settings.latency_margin * p95) / new.n
        if slow - math.sqrt(slow * (1 - slow) / new.n) > quantiles.TAIL:
            worries.append(
                f"answers look slow ({percent(slow)} above {settings.latency_margin:g} × p95)"
            )
    return worries


def _beyond(checks: tuple[Check, ...]) -> list[str]:
    """Estimates that are shown and lie beyond the margin that is shown beside them, however few
    answers they rest on: a share rises only on numbers that allow it."""
    reasons: dict[str, str] = {}
    for check in checks:
        # What harms is proven at a margin of its own for accuracy, which allows no loss at all.
        if check.value is None or check.margin is None or (check.kind, check.name) == STRICT:
            continue
        if check.name == "accuracy" and check.value < check.margin:
            words = f"accuracy {points(check.value)} against {points(check.margin)}"
        elif check.name == "errors" and check.value > check.margin:
            words = f"errors {points(check.value)} against {points(check.margin)}"
        elif check.name == "latency" and check.value > check.margin:
            words = f"p95 {check.value:.2f} × against {check.margin:g} ×"
        else:
            continue
        reasons.setdefault(check.name, f"{words} on {check.n} so far")
    return list(reasons.values())
