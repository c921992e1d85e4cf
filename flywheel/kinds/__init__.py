"""The kinds of tasks there are, and what each has its own way with; asked for nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from flywheel.contracts.model_folder import Output
from flywheel.kinds import classification, dialogue, generation, image_classification
from flywheel.kinds.answers import Answers
from flywheel.kinds.choice import LETTERS, Choice
from flywheel.kinds.free_text import FreeText
from flywheel.kinds.kind import USUAL, FileReader, Kind, TaskKind

__all__ = [
    "KINDS",
    "LETTERS",
    "USUAL",
    "Answers",
    "Choice",
    "FileReader",
    "FreeText",
    "Kind",
    "KindName",
    "TaskKind",
    "answers_of",
    "of",
]

KindName: TypeAlias = Literal["classification", "generation", "dialogue", "image-classification"]
KINDS: dict[str, Kind] = {
    module.KIND.name: module.KIND
    for module in (classification, generation, dialogue, image_classification)
}


def of(name: str) -> Kind:
    """The kind of this name. Raises KeyError."""
    return KINDS[name]


def answers_of(output: Output, labels: Sequence[str] = ()) -> Answers:
    """The answers of a release that answers with this, and these labels."""
    return Choice(labels) if output == "label" else FreeText()
