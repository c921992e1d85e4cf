"""Both arms step by step: what happened at one share of the traffic is compared at that share.

An incident that both arms share falls on each of them in proportion to its requests of that
moment. Within a step that is the same proportion as of all its requests, so the incident raises
both arms' rates alike. Pooled over steps it is not: the challenger has most of its requests in the
late steps and the champion in the early ones, and whatever happens late is the challenger's fault.
"""

from __future__ import annotations

from dataclasses import dataclass

from flywheel.rollout.ports import ArmSummary, StepCounts

# (errors, requests)
Counts = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """What both arms did at one share."""

    champion: StepCounts
    challenger: StepCounts

    @property
    def live(self) -> tuple[Counts, Counts]:
        """Live answers of both arms."""
        return _live(self.champion), _live(self.challenger)

    @property
    def answered(self) -> tuple[Counts, Counts]:
        """Live answers, or shadow ones of an arm that has no live ones, as the challenger in the
        shadow state."""
        return _answered(self.champion), _answered(self.challenger)

    @property
    def executed(self) -> tuple[Counts, Counts]:
        """Live and shadow answers: both show whether a release can answer."""
        return _executed(self.champion), _executed(self.challenger)


def steps_of(champion: ArmSummary, challenger: ArmSummary) -> tuple[Step, ...]:
    """The steps in which either arm was asked, by rising share; those without a share first.

    Arms that say nothing of steps are one step."""
    old, new = _by_share(champion), _by_share(challenger)
    shares = sorted(old.keys() | new.keys(), key=lambda share: -1.0 if share is None else share)
    return tuple(
        Step(old.get(share, StepCounts(share=share)), new.get(share, StepCounts(share=share)))
        for share in shares
    )


def _by_share(arm: ArmSummary) -> dict[float | None, StepCounts]:
    if arm.steps:
        return {step.share: step for step in arm.steps}
    whole = StepCounts(
        requests=arm.requests,
        errors=arm.errors,
        shadow_requests=arm.shadow_requests,
        shadow_errors=arm.shadow_errors,
        latency_buckets=arm.latency_buckets,
    )
    return {None: whole} if whole != StepCounts() else {}


def _live(counts: StepCounts) -> Counts:
    return counts.errors, counts.requests


def _answered(counts: StepCounts) -> Counts:
    if counts.requests:
        return _live(counts)
    return counts.shadow_errors, counts.shadow_requests


def _executed(counts: StepCounts) -> Counts:
    return counts.errors + counts.shadow_errors, counts.requests + counts.shadow_requests
