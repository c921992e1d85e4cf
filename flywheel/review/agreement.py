"""When experts have agreed: answers to one sample in, its label or None out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flywheel.review.access import person
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """The agreed answer (None: it can't be labelled), who gave it, and the share of all answers
    (by weight) that it got."""

    value: str | None
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
    same: Callable[[str], str] = str,
) -> Verdict | None:
    """The settled answer of one sample, or None while more answers are needed.

    Answers for which ``same`` gives the same agree; of those the first one's words are kept. That
    a sample can't be labelled is an answer like any other. Skips do not count. A label settles when
    ``answers_needed`` experts gave it and it leads. After ``answers_at_most`` answers the leading
    label settles whatever its support. A tie never settles: the sample stays open for one more
    expert, and each further answer is judged in the same way.
    """
    # One person is one vote, also where an earlier version took their name in two spellings.
    first: dict[str, Answer] = {}
    for answer in answers:
        if not answer.skipped:
            first.setdefault(person(answer.annotator), answer)
    given = [(answer.annotator, answer.value) for answer in first.values()]
    words: dict[str | None, str | None] = {}
    support: dict[str | None, float] = {}
    for annotator, value in given:
        key = _key(value, same)
        words.setdefault(key, value)
        support[key] = support.get(key, 0.0) + weight(annotator)
    if not support:
        return None
    ordered = sorted(support.items(), key=lambda item: -item[1])
    agreed, most = ordered[0]
    runner_up = ordered[1][1] if len(ordered) > 1 else 0.0
    enough = most >= settings.answers_needed or len(given) >= settings.answers_at_most
    if not enough or most <= runner_up:
        return None
    supporters = tuple(annotator for annotator, value in given if _key(value, same) == agreed)
    return Verdict(words[agreed], supporters, most / sum(support.values()), len(support) == 1)


def _key(value: str | None, same: Callable[[str], str]) -> str | None:
    return None if value is None else same(value)
