"""Where labels come from: which source is trusted over which, and what each one's word does."""

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
# Given by a model or a rule: it proves nothing about a model, and training weighs it apart.
AUTOMATIC: frozenset[LabelSource] = frozenset({"rule", "auto", "model"})
# Somebody or something outside knows it: nobody has to be asked, and releases are measured by it.
TRUSTED: frozenset[LabelSource] = frozenset({"seed", "outcome", "user"})
# What releases are measured by in all. Experts' word comes as LabelSettled.
TRUTHS: frozenset[LabelSource] = TRUSTED | {"expert"}
# Settles its sample at once. A model's own guess, "model", never does.
SETTLES_ALONE: frozenset[LabelSource] = TRUSTED | (AUTOMATIC - {"model"})
# Careful enough for the temperature of what is made: people who were asked, or a file they made.
CALIBRATES: frozenset[LabelSource] = frozenset({"expert", "seed"})


def rank(source: LabelSource) -> int:
    """0 is the most trusted source."""
    return SOURCE_RANK.index(source)
