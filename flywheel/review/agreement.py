"""When experts have agreed: answers to one sample in, its label or None out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """The agreed label, who gave it, and the share of all answers (by weight) that it got."""

    value: str
    annotators: tuple[str, ...]
    agreement: float
    unanimous: bool


def same_weight(_annotator: str) -> float:
    """Every expert counts alike. Quality weights (Dawid–Skene, CROWDLAB) take this place."""
    return 1.0


def verdict(
    answers: Sequence[Answer],
    settings: ReviewSettings,
    weight: Callable[[str], float] = same_weight,
) -> Verdict | None:
    """The settled label of one sample, or None while more answers are needed.

    Skips do not count. A label settles when ``answers_needed`` experts gave it and it leads. After
    ``answers_at_most`` answers the leading label settles whatever its support. A tie never settles:
    the sample stays open for one more expert, and each further answer is judged in the same way.
    """
    given = [answer for answer in answers if answer.value is not None]
    support: dict[str, float] = {}
    for answer in given:
        value = answer.value or ""
        support[value] = support.get(value, 0.0) + weight(answer.annotator)
    if not support:
        return None
    ordered = sorted(support.items(), key=lambda item: -item[1])
    value, most = ordered[0]
    runner_up = ordered[1][1] if len(ordered) > 1 else 0.0
    enough = most >= settings.answers_needed or len(given) >= settings.answers_at_most
    if not enough or most <= runner_up:
        return None
    supporters = tuple(answer.annotator for answer in given if answer.value == value)
    return Verdict(value, supporters, most / sum(support.values()), len(support) == 1)
