"""Variants of one model beside each other: what each costs, what it loses, and which one serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from flywheel.errors import PipelineError
from flywheel.statistics.noninferiority import exact_p, no_worse, upper_bound
from flywheel.statistics.proportions import wilson_interval
from flywheel.statistics.sample_size import holdout_advice

REFERENCE = "none"
CONFIDENCE = 0.95
# Two costs within this share of each other are equal: a measurement does not repeat any closer.
SAME_COST = 0.05
# reference, no worse by the margin, perhaps worse, proven worse than is ever allowed, not measured
Standing = Literal["reference", "equal", "doubtful", "worse", "failed"]

_ALPHA = 1 - CONFIDENCE


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
    the bounds of the exact paired test, each at the confidence of the comparison, and the lower one
    decides. Nothing but the name, the method and ``reason`` means anything of a variant that was
    not measured.
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
    worst = best = 0.0
    if one.failure or not total:
        standing, reason = _failed(one)
    elif one.name == REFERENCE:
        standing, reason = "reference", "as it was trained"
    else:
        worst = no_worse(fixed, broken, total, margin, _ALPHA).least
        best = upper_bound(fixed, broken, total, _ALPHA)
        standing, reason = verdict(fixed, broken, total, margin, max_loss)
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
        difference_low=worst,
        difference_high=best,
        standing=standing,
        reason=reason,
        speed=one.speed,
    )


def _failed(one: Evidence) -> tuple[Standing, str]:
    return "failed", one.failure or "it answered no held-out sample"


def verdict(
    fixed: int, broken: int, total: int, margin: float, max_loss: float
) -> tuple[Standing, str]:
    """Whether a variant is not inferior, in words too.

    It is when the exact paired test shows a loss below ``margin``: one that loses the margin passes
    in at most 5 % of cases. It is worse when the same test shows a loss above ``max_loss``.
    """
    if exact_p(broken, fixed, total, -max_loss) <= _ALPHA:
        least = max(-upper_bound(fixed, broken, total, _ALPHA), max_loss)
        return "worse", f"proven to lose at least {least:.2%}, where {max_loss:.2%} is the most"
    shown = no_worse(fixed, broken, total, margin, _ALPHA)
    if shown.passed:
        return "equal", f"loses at most {max(0.0, -shown.least):.2%}, where {margin:.2%} is allowed"
    advice = holdout_advice(fixed, broken, total, margin, _ALPHA)
    return "doubtful", f"may lose {-shown.least:.2%}, where {margin:.2%} is allowed; {advice}"
