"""The plan of a rollout: what share comes next, when promotion is looked at, what a step needs."""

from __future__ import annotations

import math

from flywheel.contracts.percentages import percentage
from flywheel.contracts.split import TrafficSplit
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.ports import Rollout

# The last look has this many times the labels of the first; looks between are spaced evenly on a
# logarithmic scale, so each has the same relative gain of information over the one before.
LAST_LOOK = 5.0


def percent(share: float) -> str:
    """A share in percent with the decimals that it has: 0.005 is 0.5%."""
    return f"{percentage(share)}%"


def final_share(rollout: Rollout) -> float:
    """The challenger's share of live traffic: a promoted one has all of it."""
    return 1.0 if rollout.state in ("promoted", "serving") else rollout.share


def look_sizes(settings: RolloutSettings) -> tuple[int, ...]:
    """How many audited pairs each scheduled look at promotion has, rising."""
    first, looks = settings.min_labels, settings.looks
    ratio = LAST_LOOK ** (1 / (looks - 1)) if looks > 1 else 1.0
    sizes: list[int] = []
    for k in range(looks):
        size = math.ceil(first * ratio**k - 1e-9)
        sizes.append(max(size, sizes[-1] + 1) if sizes else size)
    return tuple(sizes)


def step_labels(settings: RolloutSettings, steps: tuple[float, ...], step: int) -> int:
    """Audited pairs needed to leave ``step``: a larger share is earned with more labels.

    Without shadow answers there are no pairs, so none can be asked for."""
    if settings.shadow_share == 0:
        return 0
    return math.ceil(settings.min_labels * (step + 1) / (len(steps) + 1))


def split_of(rollout: Rollout, settings: RolloutSettings) -> TrafficSplit:
    """The whole routing of a rollout's task in its present state."""
    if rollout.state in ("promoted", "serving"):
        return TrafficSplit(task=rollout.task, champion=rollout.challenger)
    if rollout.state == "rolled_back":
        return TrafficSplit(task=rollout.task, champion=rollout.champion)
    scored = rollout.state in ("shadow", "canary") or rollout.share > 0
    return TrafficSplit(
        task=rollout.task,
        champion=rollout.champion,
        challenger=rollout.challenger,
        rollout_id=rollout.rollout_id,
        challenger_share=rollout.share,
        shadow_share=settings.shadow_share if scored else 0.0,
        assign_by=settings.assign_by,
    )
