"""What is known of a rollout at one moment: shown while it runs, and kept with its decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from flywheel.rollout.analysis import latency
from flywheel.rollout.analysis.evidence import Assessment, Check, Facts
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.plan import look_sizes
from flywheel.rollout.ports import ArmSummary, Rollout, Transition


class ArmView(msgspec.Struct, frozen=True, kw_only=True):
    """One arm's live traffic; latencies in ms, accuracy on its audited live answers: those that
    were drawn uniformly. What experts were asked because the model was unsure says nothing of it.
    """

    release: str
    requests: int
    errors: int
    error_rate: float | None
    shadow_requests: int = 0
    audited: int = 0
    accuracy: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None


class PairedView(msgspec.Struct, frozen=True, kw_only=True):
    """The paired comparison: what it counts, the difference and its confidence sequence."""

    n: int
    both_right: int
    only_champion_right: int
    only_challenger_right: int
    both_wrong: int
    difference: float | None
    low: float | None
    high: float | None
    margin: float
    looks: tuple[int, ...]
    looks_used: int
    next_look: int | None


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """Both arms, the paired comparison (None where it was not kept) and every check."""

    champion: ArmView
    challenger: ArmView
    paired: PairedView | None
    checks: tuple[Check, ...]

    def kept(self) -> dict[str, object]:
        """The findings as JSON-able values, for a transition."""
        kept: dict[str, object] = msgspec.to_builtins(self)
        if self.paired is not None:
            kept |= {"pairs": self.paired.n, "looks_used": self.paired.looks_used}
        return kept


def findings(
    rollout: Rollout, facts: Facts, seen: Assessment, settings: RolloutSettings
) -> Findings:
    """What a decision is made from, in numbers that people and programs read."""
    return Findings(
        champion=_arm(rollout.champion, facts.champion),
        challenger=_arm(rollout.challenger, facts.challenger),
        paired=_paired(facts, seen, settings),
        checks=seen.checks,
    )


def decided_on(
    rollout: Rollout, transitions: Sequence[Transition]
) -> tuple[Findings, Transition] | None:
    """The latest findings that were kept with a transition, and which one; None where none were."""
    for change in reversed(transitions):
        if "checks" in change.evidence:
            return _read(rollout, change.evidence), change
    return None


def _read(rollout: Rollout, kept: dict[str, Any]) -> Findings:
    if "champion" in kept:
        return msgspec.convert(kept, Findings)
    # As it was kept before: the checks, and of the arms how many requests failed.
    arms = [
        ArmView(
            release=release,
            requests=kept["requests"][arm],
            errors=kept["errors"][arm],
            error_rate=kept["errors"][arm] / kept["requests"][arm]
            if kept["requests"][arm]
            else None,
        )
        for arm, release in (("champion", rollout.champion), ("challenger", rollout.challenger))
    ]
    checks = msgspec.convert(kept["checks"], tuple[Check, ...])
    return Findings(champion=arms[0], challenger=arms[1], paired=None, checks=checks)


def _arm(release: str, arm: ArmSummary) -> ArmView:
    latencies = latency.of_arm(arm)
    return ArmView(
        release=release,
        requests=arm.requests,
        errors=arm.errors,
        error_rate=arm.errors / arm.requests if arm.requests else None,
        shadow_requests=arm.shadow_requests,
        audited=arm.audited,
        accuracy=arm.correct / arm.audited if arm.audited else None,
        p50_ms=latencies.quantile(0.5),
        p95_ms=latencies.quantile(0.95),
    )


def _paired(facts: Facts, seen: Assessment, settings: RolloutSettings) -> PairedView:
    counts = Counter((p.champion_correct, p.challenger_correct) for p in facts.pairs)
    check = next(check for check in seen.of("harm") if check.name == "accuracy")
    return PairedView(
        n=seen.pairs,
        both_right=counts[True, True],
        only_champion_right=counts[True, False],
        only_challenger_right=counts[False, True],
        both_wrong=counts[False, False],
        difference=check.value,
        low=check.low,
        high=check.high,
        margin=-settings.accuracy_margin,
        looks=look_sizes(settings),
        looks_used=seen.looks_used,
        next_look=seen.next_look,
    )
