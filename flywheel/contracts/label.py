"""Which sources settle a label, and which label of a sample counts."""

from __future__ import annotations

from flywheel.contracts.events import LabelSource

# Most trusted first. Experts settle through the queue's agreement (LabelSettled), never alone.
SOURCE_RANK: tuple[LabelSource, ...] = (
    "expert",
    "seed",
    "outcome",
    "user",
    "rule",
    "auto",
    "model",
)
SETTLES_ALONE: frozenset[LabelSource] = frozenset({"seed", "outcome", "user", "rule", "auto"})


def rank(source: LabelSource) -> int:
    """0 is the most trusted source."""
    return SOURCE_RANK.index(source)
