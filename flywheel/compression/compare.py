"""Variants of one model beside each other: what each costs, what it loses, and which one serves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import msgspec
import numpy as np

from flywheel.contracts.proportions import wilson_interval
from flywheel.errors import PipelineError

REFERENCE = "none"
CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 20
# Two costs within this share of each other are equal: a measurement does not repeat any closer.
SAME_COST = 0.05
# reference, no worse by the margin, perhaps worse, proven worse than is ever allowed, not measured
Standing = Literal["reference", "equal", "doubtful", "worse", "failed"]

_NORMAL = NormalDist()
_BISECTIONS = 50
# Resamples drawn at a time.
_CHUNK = 2_000


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What the serving path itself was measured to do on this machine.

    ``p50_ms`` and ``p95_ms`` are of one request at a time; ``per_second`` of ``in_flight`` requests
    at a time. ``cost_ms`` is the compute one answer takes under that load: processor time of the
    server's processes, or of the accelerator where it has one. ``memory_bytes`` is what the
    processes held afterwards.
    """

    p50_ms: float
    p95_ms: float
    per_second: float
    in_flight: int
    cost_ms: float
    memory_bytes: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one variant. ``right`` says for each held-out sample, in the same order for
    every variant, whether its answer was; it is empty when ``failure`` says why there is none."""

    name: str
    method: str
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    bytes: int = 0
    seconds: float = 0.0
    temperature: float = 1.0
    right: tuple[bool, ...] = ()
    speed: Speed | None = None
    failure: str = ""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Accuracies are in [0, 1] with Wilson intervals. Differences are variant − reference on the same
    samples: ``fixed`` of them became right, ``broken`` wrong; ``difference_low`` and ``_high`` are
    the two-sided paired bootstrap interval; ``worst`` is the one-sided bound that decides. Nothing
    but the name, the method and ``reason`` means anything of a variant that was not measured.
    """

    name: str
    method: str
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    bytes: int
    seconds: float
    temperature: float
    samples: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    fixed: int
    broken: int
    difference: float
    difference_low: float
    difference_high: float
    worst: float
    standing: Standing
    reason: str
    speed: Speed | None

    @property
    def eligible(self) -> bool:
        """Whether it may be chosen without a pin."""
        return self.standing in ("reference", "equal")


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """comparison.json: the table, how it was made, which variant it chose and why."""

    engine: str
    reference: str
    margin: float
    confidence: float
    resamples: int
    seed: int
    rows: tuple[Row, ...]
    chosen: str
    reason: str

    def row(self, name: str) -> Row:
        """The line of one variant."""
        return next(row for row in self.rows if row.name == name)


def compare(
    evidence: Sequence[Evidence], *, margin: float, max_loss: float, pin: str = "", engine: str
) -> Comparison:
    """Set every variant beside the reference and choose one (see ``verdict`` and ``choose``).

    Raises PipelineError when the reference was not measured, when samples are missing, or when the
    pinned variant may not serve.
    """
    reference = next((one for one in evidence if one.name == REFERENCE and not one.failure), None)
    if reference is None or not reference.right:
        raise PipelineError(
            f"nothing to compare with: the variant {REFERENCE!r}, the model as it was trained, "
            "answered no held-out sample"
        )
    rows = tuple(_row(one, reference, margin, max_loss) for one in evidence)
    chosen, reason = choose(rows, pin)
    return Comparison(
        engine=engine,
        reference=REFERENCE,
        margin=margin,
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        seed=SEED,
        rows=rows,
        chosen=chosen,
        reason=reason,
    )


def choose(rows: Sequence[Row], pin: str = "") -> tuple[str, str]:
    """The variant that serves, and why.

    The pinned one if there is a pin. Otherwise the cheapest that is not inferior, which the
    reference never is: cheapest is what takes least compute an answer as measured; of those within
    5 % of it the smallest on disk. A reference whose speed alone was not measured is left out;
    where that of others was not, the smallest serves.
    Raises PipelineError when the pinned one was not measured, or lost more than is ever allowed.
    """
    if pin:
        pinned = next((row for row in rows if row.name == pin), None)
        if pinned is None or pinned.standing in ("worse", "failed"):
            why = pinned.reason if pinned else "it was not made"
            raise PipelineError(f"compression.pin {pin!r} cannot serve: {why}")
        return pin, "pinned" if pinned.eligible else f"pinned, although {pinned.reason}"
    able = [row for row in rows if row.eligible]
    timed = [row for row in able if row.name != REFERENCE or row.speed is not None]
    costs = {row.name: row.speed.cost_ms for row in timed if row.speed is not None}
    if costs and len(costs) == len(timed):
        least = min(costs.values()) * (1 + SAME_COST)
        able = [row for row in timed if costs[row.name] <= least]
        words = "least compute an answer"
    else:
        words = "smallest"
    best = min(able, key=lambda row: (row.bytes, row.name))
    others = [row.name for row in rows if not row.eligible]
    if best.name == REFERENCE and others:
        return best.name, f"{words}; not eligible: {', '.join(others)}"
    return best.name, f"{words} of those that are no worse than {REFERENCE} by the margin"


def _row(one: Evidence, reference: Evidence, margin: float, max_loss: float) -> Row:
    total = len(one.right)
    if not one.failure and total != len(reference.right):
        raise PipelineError(
            f"{one.name} answered {total} held-out samples and {REFERENCE} {len(reference.right)}"
        )
    pairs = list(zip(one.right, reference.right, strict=False))
    fixed = sum(now and not was for now, was in pairs)
    broken = sum(was and not now for now, was in pairs)
    right = sum(one.right)
    low, high = wilson_interval(right, total, CONFIDENCE)
    interval = bootstrap_interval(fixed, broken, total) if total else (0.0, 0.0)
    worst = lower_bound(fixed, broken, total) if total else -1.0
    standing, reason = verdict(fixed, broken, total, margin, max_loss)
    if one.failure:
        standing, reason = "failed", one.failure
    elif one.name == REFERENCE:
        standing, reason, worst = "reference", "as it was trained", 0.0
    return Row(
        name=one.name,
        method=one.method,
        steps=one.steps,
        notes=one.notes,
        bytes=one.bytes,
        seconds=one.seconds,
        temperature=one.temperature,
        samples=total,
        accuracy=right / total if total else 0.0,
        accuracy_low=low,
        accuracy_high=high,
        fixed=fixed,
        broken=broken,
        difference=(fixed - broken) / total if total else 0.0,
        difference_low=interval[0],
        difference_high=interval[1],
        worst=worst,
        standing=standing,
        reason=reason,
        speed=one.speed,
    )


def verdict(
    fixed: int, broken: int, total: int, margin: float, max_loss: float
) -> tuple[Standing, str]:
    """Whether a variant is not inferior, in words too.

    It is when ``lower_bound`` lies above −``margin``: the chance that one which loses the margin
    passes is at most 5 %, counted exactly in the tests for 150 to 2,000 samples.
    """
    if not total:
        return "failed", "it answered no held-out sample"
    worst, least = lower_bound(fixed, broken, total), lower_bound(broken, fixed, total)
    if least > max_loss:
        return "worse", f"proven to lose at least {least:.2%}, where {max_loss:.2%} is the most"
    if worst > -margin:
        return "equal", f"loses at most {max(0.0, -worst):.2%}, where {margin:.2%} is allowed"
    if lower_bound(0, 0, total) <= -margin:
        return "doubtful", f"{total} samples cannot prove a loss below {margin:.2%}: hold out more"
    return "doubtful", f"may lose {-worst:.2%}, where {margin:.2%} is allowed"


def lower_bound(fixed: int, broken: int, total: int) -> float:
    """One-sided 95 % lower bound of the difference in accuracy: the lower of two.

    The paired bootstrap (BCa) knows no difference that was not drawn, so when few or no pairs
    differ it says too much: then the score bound decides (Tango 1998, with half a sample of
    continuity correction), which stays below 5 % false verdicts where the adjusted Wald bound
    reaches 7 %.
    """
    low, _ = bootstrap_interval(fixed, broken, total, confidence=2 * CONFIDENCE - 1)
    return min(low, score_bound(fixed, broken, total))


def bootstrap_interval(
    fixed: int, broken: int, total: int, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Two-sided paired bootstrap interval of the difference in accuracy.

    10,000 resamples of the pairs with a fixed seed; bias-corrected and accelerated (Efron 1987),
    since rare differences have a skewed distribution. A pair is +1, −1 or 0, so that a resample of
    the pairs is a multinomial draw of how many there are of each. Raises nothing: where no pair
    differs the interval is (0, 0).
    """
    if fixed + broken == 0:
        return 0.0, 0.0
    drawn = _resample(fixed, broken, total)
    estimate = (fixed - broken) / total
    below = (np.mean(drawn < estimate) + np.mean(drawn <= estimate)) / 2
    bias = _NORMAL.inv_cdf(min(max(float(below), 1e-6), 1 - 1e-6))
    acceleration = _acceleration(fixed, broken, total)
    tail = (1 - confidence) / 2
    low, high = (
        float(np.quantile(drawn, _corrected(p, bias, acceleration))) for p in (tail, 1 - tail)
    )
    return min(low, estimate), max(high, estimate)


def _resample(fixed: int, broken: int, total: int) -> np.ndarray:
    generator = np.random.default_rng(SEED)
    shares = [fixed / total, broken / total, (total - fixed - broken) / total]
    parts = [generator.multinomial(total, shares, size=_CHUNK) for _ in range(RESAMPLES // _CHUNK)]
    counts = np.concatenate(parts)
    return (counts[:, 0] - counts[:, 1]) / total


def _acceleration(fixed: int, broken: int, total: int) -> float:
    """A sixth of the jackknife's skewness."""
    mean = (fixed - broken) / total
    values = np.array([1 - mean, -1 - mean, -mean])
    counts = np.array([fixed, broken, total - fixed - broken])
    squares = float(counts @ values**2)
    return float(counts @ values**3) / (6 * squares**1.5) if squares else 0.0


def _corrected(probability: float, bias: float, acceleration: float) -> float:
    z = bias + _NORMAL.inv_cdf(probability)
    return _NORMAL.cdf(bias + z / (1 - acceleration * z))


def score_bound(fixed: int, broken: int, total: int) -> float:
    """One-sided 95 % lower bound of the difference, by inverting Tango's (1998) score test."""
    estimate = (fixed - broken) / total
    low, high = -1.0, estimate
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if score_statistic(fixed, broken, total, -middle) > _NORMAL.inv_cdf(CONFIDENCE):
            low = middle
        else:
            high = middle
    return low


def score_statistic(fixed: int, broken: int, total: int, loss: float) -> float:
    """How many standard errors the difference lies above −``loss``, were that the truth.

    Tango, Statistics in Medicine 17 (1998): the share of fixed pairs is its maximum-likelihood
    estimate given the loss. The difference is moved half a sample towards the loss, for it comes in
    whole ones.
    """
    differing = fixed + broken
    same = total - differing
    square = -2.0 * total
    linear = differing * (1 - loss) - 2 * fixed * loss - 2 * same * loss
    constant = fixed * loss * (1 - loss)
    root = math.sqrt(max(0.0, linear * linear - 4 * square * constant))
    share = max(0.0, (-linear - root) / (2 * square), -loss)
    variance = total * (2 * share + loss - loss * loss)
    distance = fixed - broken + total * loss - 0.5
    if variance <= 0:
        return math.inf if distance > 0 else -math.inf
    return distance / math.sqrt(variance)
