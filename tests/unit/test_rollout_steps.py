"""Errors and latency compare within steps: what both arms share is no arm's fault."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rollout_memory import START, arm, pairs

from flywheel.rollout.analysis import latency, simulation
from flywheel.rollout.analysis.evidence import Check, Facts, differences
from flywheel.rollout.analysis.harm import CHECKS, harm_checks
from flywheel.rollout.analysis.promotion import promotion_checks
from flywheel.rollout.analysis.steps import steps_of
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.decide import decide
from flywheel.rollout.ports import ArmSummary, Rollout, StepCounts
from flywheel.statistics import quantiles
from flywheel.statistics.betting import PairedEvidence
from flywheel.statistics.buckets import latency_bucket
from flywheel.statistics.rates import (
    log_e_by_step,
    log_e_in_steps,
    weighted_difference,
)

SETTINGS = RolloutSettings()


def stepped(*steps: StepCounts) -> ArmSummary:
    """An arm whose totals are those of its steps."""
    buckets: dict[int, int] = {}
    for step in steps:
        for bucket, count in step.latency_buckets:
            buckets[bucket] = buckets.get(bucket, 0) + count
    return ArmSummary(
        requests=sum(step.requests for step in steps),
        errors=sum(step.errors for step in steps),
        shadow_requests=sum(step.shadow_requests for step in steps),
        shadow_errors=sum(step.shadow_errors for step in steps),
        latency_buckets=tuple(sorted(buckets.items())),
        steps=steps,
    )


def step(share: float, requests: int, errors: int = 0, ms: float = 20.0) -> StepCounts:
    good = requests - errors
    return StepCounts(
        share=share,
        requests=requests,
        errors=errors,
        latency_buckets=((latency_bucket(ms), good),) if good else (),
    )


def checked(champion: ArmSummary, challenger: ArmSummary) -> dict[str, Check]:
    facts = Facts(champion=champion, challenger=challenger)
    nothing = PairedEvidence(*differences(()))
    found = (
        *harm_checks(facts, nothing, SETTINGS),
        *promotion_checks(facts, nothing, SETTINGS),
    )
    return {f"{check.kind} {check.name}": check for check in found}


# Two hundred requests that failed in both arms while the challenger had half of the traffic.
SHARED = (
    (step(0.05, 950), step(0.25, 150), step(0.5, 150, errors=100)),
    (step(0.05, 50), step(0.25, 50), step(0.5, 150, errors=100)),
)


def test_an_incident_that_both_arms_share_rolls_no_one_back() -> None:
    champion, challenger = (stepped(*steps) for steps in SHARED)
    rollout = Rollout(
        rollout_id="r",
        task="t",
        champion="old",
        challenger="new",
        state="canary",
        step=2,
        share=0.5,
        started_at=START,
        step_started_at=START,
        steps=SETTINGS.steps,
    )
    better = tuple(pairs([1] * 8 + [-1] * 4 + [0] * 188))
    facts = Facts(champion=champion, challenger=challenger, pairs=better)
    found = decide(rollout, facts, SETTINGS, START)
    assert found.state == "canary", found.reason
    errors = next(check for check in found.assessment.of("harm") if check.name == "errors")
    assert errors.value == pytest.approx(0, abs=1e-9)
    assert errors.low is not None
    assert errors.low < 0.0 < (errors.high or 0)
    assert "(+0.0 points within each step)" in errors.words


def test_simulated_incidents_roll_no_equal_challenger_back() -> None:
    assert simulation.incident(SETTINGS, 6, 200, 1) == 0
    # Evidence that knows of no steps can't tell an incident from the challenger.
    assert simulation.incident(SETTINGS, 3, 200, 1, by_step=False) == 1


def test_a_slow_hour_of_both_arms_is_not_the_challengers() -> None:
    champion = stepped(step(0.05, 9500, ms=20), step(0.5, 300, ms=200))
    challenger = stepped(step(0.05, 500, ms=20), step(0.5, 300, ms=200))
    found = checked(champion, challenger)
    assert found["harm latency"].outcome == "passed"
    # Beside each other, the champion's p95 is that of the challenger's mixture of steps.
    assert found["harm latency"].value == pytest.approx(1.0)
    assert found["promotion latency"].outcome == "passed"
    pooled = checked(
        *(ArmSummary(latency_buckets=one.latency_buckets) for one in (champion, challenger))
    )
    assert pooled["harm latency"].outcome == "failed"


def test_what_only_the_challenger_does_in_the_last_step_is_found() -> None:
    champion = stepped(step(0.05, 950, 9), step(0.25, 150, 2), step(0.5, 100, 1))
    failing = stepped(step(0.05, 50), step(0.25, 50), step(0.5, 100, 30))
    assert checked(champion, failing)["harm errors"].outcome == "failed"
    champion = stepped(step(0.05, 3000, ms=20), step(0.5, 400, ms=20))
    slow = stepped(step(0.05, 150, ms=20), step(0.5, 400, ms=80))
    assert checked(champion, slow)["harm latency"].outcome == "failed"


def ever_proven(
    rates: tuple[float, ...], rise: float, looks: int, *, above: bool, alpha: float
) -> float:
    """The share of 400 rollouts whose evidence ever reached the limit, looking after every fifty
    requests of three steps, whose shares, and rates of both arms, differ."""
    rng = np.random.default_rng(3)
    test = log_e_in_steps if above else log_e_by_step
    difference = 0.0 if above else SETTINGS.error_margin
    columns, reached = np.zeros((4, 400, 3)), np.zeros(400, bool)
    for now, (share, rate) in enumerate(zip(SETTINGS.steps, rates, strict=True)):
        for _ in range(looks):
            mine = rng.binomial(50, share, 400)
            for row, many, p in ((0, 50 - mine, rate), (2, mine, rate + rise)):
                columns[row, :, now] += rng.binomial(many, p)
                columns[row + 1, :, now] += many
            reached |= test(*columns, difference, above=above) >= math.log(1 / alpha)
    return float(reached.mean())


def test_equal_arms_whose_rates_change_from_step_to_step_are_rarely_called_harm() -> None:
    alpha = SETTINGS.harm_alpha / CHECKS
    found = ever_proven((0.002, 0.05, 0.4), 0.0, 20, above=True, alpha=alpha)
    assert found <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 400)


def test_at_the_margin_in_every_step_a_proof_is_rare() -> None:
    alpha = SETTINGS.promote_alpha
    found = ever_proven((0.0, 0.02, 0.1), SETTINGS.error_margin, 20, above=False, alpha=alpha)
    assert found <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 400)


def test_shadow_answers_count_beside_live_ones_where_there_are_no_live_ones() -> None:
    champion = stepped(StepCounts(share=0.0, requests=500), step(0.5, 50))
    challenger = stepped(
        StepCounts(share=0.0, shadow_requests=200, shadow_errors=100), step(0.5, 50)
    )
    assert checked(champion, challenger)["harm errors"].outcome == "failed"
    assert steps_of(ArmSummary(), ArmSummary()) == ()
    assert weighted_difference(*(np.zeros(0) for _ in range(4))) is None


def test_the_latency_interval_ends_where_the_tests_begin_to_say_so() -> None:
    found = checked(arm(800, ms=20), arm(800, ms=24))
    harm, proof = found["harm latency"], found["promotion latency"]
    together = latency.by_step(arm(800, ms=20), arm(800, ms=24))
    assert harm.low is not None
    assert harm.low < 1.2 < (proof.high or math.inf) < SETTINGS.latency_margin
    need = math.log(CHECKS / SETTINGS.harm_alpha)
    assert quantiles.log_e_slower(together, harm.low) >= need
    assert quantiles.log_e_slower(together, harm.low * 1.03) < need
