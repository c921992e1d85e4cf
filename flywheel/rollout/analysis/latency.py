"""The latencies that are compared: of all answers of an arm, and of both arms in each step."""

from __future__ import annotations

from flywheel.rollout.analysis.steps import steps_of
from flywheel.rollout.ports import ArmSummary
from flywheel.statistics.quantiles import Latencies


def of_arm(arm: ArmSummary) -> Latencies:
    """All latencies of an arm."""
    return Latencies(dict(arm.latency_buckets))


def by_step(champion: ArmSummary, challenger: ArmSummary) -> list[tuple[Latencies, Latencies]]:
    """The latencies of each step in which both arms answered."""
    if not (champion.steps or challenger.steps):
        pairs = [(of_arm(champion), of_arm(challenger))]
    else:
        pairs = [
            (
                Latencies(dict(step.champion.latency_buckets)),
                Latencies(dict(step.challenger.latency_buckets)),
            )
            for step in steps_of(champion, challenger)
        ]
    return [(old, new) for old, new in pairs if old.n and new.n]
