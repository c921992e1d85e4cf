"""How often a task's settings would decide what: many rollouts simulated with the real tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from flywheel.rollout.analysis.evidence import Facts
from flywheel.rollout.analysis.harm import CHECKS
from flywheel.rollout.analysis.units import MISMATCH_ALPHA
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.decide import decide
from flywheel.rollout.plan import look_sizes
from flywheel.rollout.ports import ArmSummary, Rollout, StepCounts
from flywheel.statistics import quantiles
from flywheel.statistics.betting import log_capital
from flywheel.statistics.buckets import latency_bucket
from flywheel.statistics.noninferiority import exact_p, score
from flywheel.statistics.rates import log_e_by_step, log_e_in_steps
from flywheel.statistics.sample_ratio import log_e_mismatch

Array = NDArray[np.float64]
NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Pairs:
    """What share of audited pairs only the challenger, or only the champion, gets right."""

    only_challenger: float
    only_champion: float


def independent(champion: float, challenger: float) -> Pairs:
    """Arms of these accuracies whose mistakes have nothing to do with each other: the hardest
    case, as real arms err on the same samples and differ on fewer."""
    return Pairs((1 - champion) * challenger, champion * (1 - challenger))


def accuracy(
    settings: RolloutSettings, pairs: Pairs, rollouts: int, labels: int, seed: int
) -> tuple[Array, Array]:
    """(harm, proof): after how many audited pairs each rollout proved harm, looking after every
    pair, and at which scheduled look it proved non-inferiority; infinite where it never did."""
    rng = np.random.default_rng(seed)
    u = rng.random((rollouts, labels))
    plus = np.cumsum(u < pairs.only_challenger, axis=1)
    minus = np.cumsum(u > 1 - pairs.only_champion, axis=1)
    same = np.arange(1, labels + 1) - plus - minus
    # Betting on the challenger being worse: signs turned around, as in PairedEvidence.harm.
    counts = np.stack([minus, same, plus], axis=-1).astype(float)
    values = np.array([1.0, 0.0, -1.0])
    capital = log_capital(counts, values, np.ones(3), settings.harm_margin)
    harm = _first(capital >= math.log(CHECKS / settings.harm_alpha))
    proof = np.full(rollouts, NEVER)
    for size in reversed([size for size in look_sizes(settings) if size <= labels]):
        needed = critical_score(
            size, settings.accuracy_margin, settings.promote_alpha / settings.looks
        )
        t = score(plus[:, size - 1], minus[:, size - 1], size, settings.accuracy_margin)
        proof[t >= needed - 1e-9] = size
    return harm, proof


def critical_score(n: int, margin: float, alpha: float) -> float:
    """The smallest score whose exact p-value at ``n`` pairs is at most ``alpha``."""
    a, b = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    inside = a + b <= n
    a, b = a[inside], b[inside]
    t = score(a, b, n, margin)
    order = np.argsort(t, kind="stable")
    low, high = 0, len(order) - 1
    while low < high:
        middle = (low + high) // 2
        at = order[middle]
        if exact_p(int(a[at]), int(b[at]), n, margin) <= alpha:
            high = middle
        else:
            low = middle + 1
    return float(t[order[low]])


def errors(
    settings: RolloutSettings,
    rates: tuple[float, float],
    rollouts: int,
    requests: int,
    share: float,
    seed: int,
) -> tuple[Array, Array]:
    """(harm, proof): after how many challenger requests errors were proven to have risen by more
    than the margin, and not to have; looking after every tenth request of all."""
    rng = np.random.default_rng(seed)
    looks = requests // 10
    n1 = np.cumsum(rng.binomial(10, share, (rollouts, looks)), axis=1)
    n0 = 10 * np.arange(1, looks + 1) - n1
    x1 = np.cumsum(rng.binomial(np.diff(n1, axis=1, prepend=0), rates[1]), axis=1)
    x0 = np.cumsum(rng.binomial(np.diff(n0, axis=1, prepend=0), rates[0]), axis=1)
    counts = (x0[..., None], n0[..., None], x1[..., None], n1[..., None])
    margin, first_looks = settings.error_margin, []
    for evidence, alpha in (
        (log_e_in_steps(*counts, difference=margin, above=True), settings.harm_alpha / CHECKS),
        (log_e_by_step(*counts, difference=margin, above=False), settings.promote_alpha),
    ):
        at = _first((evidence >= math.log(1 / alpha)) & (n0 > 0) & (n1 > 0))
        index = np.where(np.isfinite(at), at - 1, 0).astype(int)
        first_looks.append(np.where(np.isfinite(at), n1[np.arange(rollouts), index], NEVER))
    return first_looks[0], first_looks[1]


def incident(
    settings: RolloutSettings,
    rollouts: int,
    failures: int,
    seed: int,
    *,
    error_rate: float = 0.01,
    by_step: bool = True,
) -> float:
    """The share of harmless challengers that the controller's decision rolls back, when
    ``failures`` requests in a row fail in both arms during the last step.

    Both arms fail at ``error_rate`` otherwise. It is decided after every tenth request of the
    incident; without ``by_step`` the evidence says nothing of steps.
    """
    rng = np.random.default_rng(seed)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rolled_back = 0
    for _ in range(rollouts):
        # Of both arms: one row a step, (requests, errors).
        steps = []
        for share in settings.steps:
            seen = math.ceil(settings.min_requests / share)
            mine = int(rng.binomial(seen, share))
            steps.append([[n, int(rng.binomial(n, error_rate))] for n in (seen - mine, mine)])
        for _ in range(failures // 10):
            mine = int(rng.binomial(10, settings.steps[-1]))
            for arm, n in zip(steps[-1], (10 - mine, mine), strict=True):
                arm[0], arm[1] = arm[0] + n, arm[1] + n
            champion, challenger = (
                _arm(settings, [step[index] for step in steps], by_step=by_step) for index in (0, 1)
            )
            facts = Facts(champion=champion, challenger=challenger)
            if decide(_last_step(settings, now), facts, settings, now).state == "rolled_back":
                rolled_back += 1
                break
    return rolled_back / rollouts


def _arm(settings: RolloutSettings, steps: list[list[int]], *, by_step: bool) -> ArmSummary:
    counts = tuple(
        StepCounts(share=share, requests=n, errors=failed)
        for share, (n, failed) in zip(settings.steps, steps, strict=True)
    )
    return ArmSummary(
        requests=sum(n for n, _ in steps),
        errors=sum(failed for _, failed in steps),
        steps=counts if by_step else (),
    )


def _last_step(settings: RolloutSettings, now: datetime) -> Rollout:
    return Rollout(
        rollout_id="simulated",
        task="simulated",
        champion="champion",
        challenger="challenger",
        state="canary",
        step=len(settings.steps) - 1,
        share=settings.steps[-1],
        started_at=now,
        step_started_at=now,
        steps=settings.steps,
    )


def slowness(
    settings: RolloutSettings,
    ratio: float,
    rollouts: int,
    requests: int,
    share: float,
    seed: int,
    spread: float = 0.6,
) -> tuple[Array, Array]:
    """(harm, proof) of latency in challenger requests, looking after every 20th request of all.

    Latencies are log-normal (``spread``: sigma of the log); the challenger's are ``ratio`` times
    as long.
    """
    rng = np.random.default_rng(seed)
    harm, proof = np.full(rollouts, NEVER), np.full(rollouts, NEVER)
    alpha = settings.harm_alpha / CHECKS
    margin = settings.latency_margin
    for r in range(rollouts):
        ms = 20 * np.exp(spread * rng.standard_normal(requests))
        challenger = rng.random(requests) < share
        ms[challenger] *= ratio
        bucket = np.array([latency_bucket(float(value)) for value in ms])
        for look in range(20, requests + 1, 20):
            mine = challenger[:look]
            old, new = _latencies(bucket[:look][~mine]), _latencies(bucket[:look][mine])
            if not new.n or not old.n:
                continue
            if math.isinf(harm[r]):
                evidence = quantiles.log_e_slower([(old, new)], margin)
                harm[r] = new.n if evidence >= math.log(1 / alpha) else NEVER
            if math.isinf(proof[r]):
                evidence = quantiles.log_e_not_slower([(old, new)], margin)
                proof[r] = new.n if evidence >= math.log(1 / settings.promote_alpha) else NEVER
    return harm, proof


def mismatches(share: float, true_share: float, rollouts: int, units: int, seed: int) -> Array:
    """The number of units after which an assignment was called broken, looking after each."""
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.random((rollouts, units)) < true_share, axis=1)
    evidence = log_e_mismatch(x, np.arange(1, units + 1), share)
    return _first(evidence >= math.log(1 / MISMATCH_ALPHA))


def _latencies(buckets: NDArray[np.int_]) -> quantiles.Latencies:
    keys, counts = np.unique(buckets, return_counts=True)
    return quantiles.Latencies(dict(zip(keys.tolist(), counts.tolist(), strict=True)))


def _first(hit: NDArray[np.bool_]) -> Array:
    """1-based position of the first hit in each row; infinite without one."""
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, NEVER)
