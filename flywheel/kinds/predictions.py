"""What a release answered to samples whose answer is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from flywheel.contracts.answers import same_text
from flywheel.contracts.dataset_folder import DatasetLine


class WrittenAnswer(Protocol):
    """A generated answer."""

    @property
    def text(self) -> str:
        """What was generated."""
        ...

    @property
    def confidence(self) -> float:
        """How sure the release was of it, from 0 to 1."""
        ...


# A probability for every label, or what was generated.
Answer: TypeAlias = dict[str, float] | WrittenAnswer


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a release said of a sample whose label is known.

    Free text has no ``scores``; how sure the release was of it is ``reported``.
    """

    sample_id: str
    label: str
    prediction: str
    scores: dict[str, float]
    reported: float | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer was right: the label itself, or the same text once normalised."""
        return is_right(self.prediction, self.label, self.scores)

    @property
    def confidence(self) -> float:
        """What the release reported; by default the largest probability."""
        if self.reported is not None:
            return self.reported
        return max(self.scores.values(), default=0.0)


def is_right(answer: str, truth: str, scores: Mapping[str, float]) -> bool:
    """Whether a release's answer is the settled one, of whatever kind it is.

    ``scores`` tells the kinds of answers apart wherever they are kept: a label comes with a
    probability for every label and must be equal; free text comes with none.
    """
    return answer == truth or (not scores and same_text(answer, truth))


def as_predictions(lines: Sequence[DatasetLine], answers: Sequence[Answer]) -> list[Prediction]:
    """Answers of either kind beside what is right, in the order of ``lines``."""
    return [_prediction(line, given) for line, given in zip(lines, answers, strict=True)]


def probabilities(answers: Iterable[Answer]) -> list[dict[str, float]]:
    """Label → probability, of the answers that are labels."""
    return [given for given in answers if isinstance(given, dict)]


def _prediction(line: DatasetLine, given: Answer) -> Prediction:
    if isinstance(given, dict):
        answer, scores, reported = max(sorted(given), key=given.__getitem__), given, None
    else:
        answer, scores, reported = given.text, {}, given.confidence
    return Prediction(
        sample_id=line.sample_id,
        label=line.label,
        prediction=answer,
        scores=scores,
        reported=reported,
    )
