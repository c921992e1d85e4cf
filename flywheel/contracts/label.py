"""What may be a label, which sources settle one, and which label of a sample counts."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from flywheel.contracts.answers import normalised
from flywheel.contracts.events import LabelSource

# A tile in the review page, a column in a table of confusions.
LONGEST_LABEL = 200

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


def labels_problem(labels: Sequence[str]) -> str | None:
    """Why these cannot be the labels of a task, or None.

    Labels that only their case, their spacing or the composition of their letters tells apart would
    be one label to whoever reads them, and two to the model.
    """
    if len(labels) < 2:
        return "at least two different labels are needed"
    seen: dict[str, str] = {}
    for label in labels:
        problem = _label_problem(label)
        if problem:
            return problem
        twin = seen.get(normalised(label))
        if twin == label:
            return f"{label!r} stands there twice: at least two different labels are needed"
        if twin is not None:
            return f"{twin!r} and {label!r} differ in case, spacing, width or composition alone"
        seen[normalised(label)] = label
    return None


def _label_problem(label: str) -> str | None:
    if not label.strip():
        return f"{label!r} is blank"
    if label != label.strip():
        return f"{label!r} has space around it"
    if len(label) > LONGEST_LABEL:
        return f"{label[:30]!r}… has {len(label)} characters; at most {LONGEST_LABEL} are shown"
    if any(unicodedata.category(letter) == "Cc" for letter in label):
        return f"{label!r} has a control character"
    return None
