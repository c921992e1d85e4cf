"""Figures about annotators: how much, how fast, and how often the others agreed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from flywheel.review.agreement import same_as
from flywheel.review.ports import JudgedAnswer


@dataclass(frozen=True, slots=True)
class AnnotatorStats:
    """One annotator's answers in a period; that a sample can't be labelled is one.

    ``agreement`` is the share of their labels that equal the settled label, over samples that
    others answered as well (None without any: agreeing with oneself says nothing). ``seconds`` is
    the median time of an answer as clients measured it (None if none did). ``per_hour`` counts the
    hour up to now.
    """

    annotator: str
    answers: int
    skips: int
    agreement: float | None
    compared: int
    seconds: float | None
    per_hour: int
    latest: datetime


def annotators(
    history: Sequence[JudgedAnswer], now: datetime, labels: Sequence[str]
) -> list[AnnotatorStats]:
    """Figures of everyone in ``history``, most answers first. ``labels`` are the task's."""
    answered: dict[str, int] = {}
    by_name: dict[str, list[JudgedAnswer]] = {}
    for judged in history:
        by_name.setdefault(judged.answer.annotator, []).append(judged)
        if not judged.answer.skipped:
            sample = judged.answer.sample_id
            answered[sample] = answered.get(sample, 0) + 1
    figures = [
        _one(name, judged, answered, now, same_as(labels)) for name, judged in by_name.items()
    ]
    return sorted(figures, key=lambda one: (-one.answers, one.annotator))


def _one(
    name: str,
    history: Sequence[JudgedAnswer],
    answered: dict[str, int],
    now: datetime,
    same: Callable[[str], str],
) -> AnnotatorStats:
    given = [judged for judged in history if not judged.answer.skipped]
    compared = [
        judged
        for judged in given
        if judged.answer.value is not None
        and judged.settled is not None
        and answered[judged.answer.sample_id] > 1
    ]
    agreed = sum(
        same(judged.answer.value or "") == same(judged.settled or "") for judged in compared
    )
    seconds = [judged.answer.seconds for judged in given if judged.answer.seconds > 0]
    hour_ago = now - timedelta(hours=1)
    return AnnotatorStats(
        annotator=name,
        answers=len(given),
        skips=len(history) - len(given),
        agreement=agreed / len(compared) if compared else None,
        compared=len(compared),
        seconds=median(seconds) if seconds else None,
        per_hour=sum(judged.answer.answered_at > hour_ago for judged in given),
        latest=max(judged.answer.answered_at for judged in history),
    )
