"""Answers that are one of a task's labels, each with a calibrated probability."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from flywheel.contracts.model_folder import Output, Prompt
from flywheel.kinds.answers import Answers
from flywheel.kinds.predictions import Prediction
from flywheel.kinds.signals import Signals, least_score, signals

# What a language model answers with: one token each in every tokenizer there is.
LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits


class Choice(Answers):
    """One of ``labels``."""

    output: Output = "label"
    scored = True
    part = "choice"
    of_task = "a task with labels"
    called = "labels"
    accuracy_name = "Accuracy"
    label_studio = ("choices", "choices")
    drawn_from = "each label's"

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)

    @property
    @override
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @override
    def knows(self, value: object) -> bool:
        return value in self.labels

    @override
    def problem(self, value: str) -> str | None:
        return None

    @override
    def agreeing(self, value: str) -> str:
        return value

    @override
    def counted_as(self, value: str) -> str:
        return value

    @override
    def given(self, output: str | None, scores: Mapping[str, float]) -> str:
        if output is not None and output in scores:
            return output
        return max(sorted(scores), key=lambda label: scores[label])

    @override
    def judged(
        self, output: str | None, scores: Mapping[str, float], confidence: float | None
    ) -> bool:
        return bool(scores)

    @override
    def signals(
        self, scores: Mapping[str, float], confidence: float, temperature: float
    ) -> Signals:
        return signals(scores, temperature)

    @override
    def least_unsure(self, confidence: float) -> float:
        return least_score(len(self.labels), confidence)

    @override
    def measure(self, predictions: Sequence[Prediction], confidence: float) -> dict[str, Any]:
        from flywheel.kinds.label_metrics import measure_labels

        return measure_labels(predictions, self.labels, confidence)

    @property
    @override
    def described(self) -> str:
        return ", ".join(self.labels)

    @override
    def content_words(self, temperature: float) -> str:
        calibrated = f"probabilities are calibrated with temperature {temperature:.3f}"
        return f"is one of the labels; {calibrated}"

    @override
    def prompt(
        self,
        *,
        system: str,
        template: str,
        max_answer_tokens: int,
        title: str,
        label_titles: Mapping[str, str],
    ) -> Prompt:
        """The options stand in the system message, the same for every request, each with a letter
        of its own that the model answers with."""
        answers = dict(zip(self.labels, LETTERS, strict=False))
        options = "".join(
            f"\n{letter}: {label_titles.get(label, label)}" for label, letter in answers.items()
        )
        asked = system or f"{title or 'Which class does the text belong to?'}"
        return Prompt(
            system=f"{asked} Answer with one letter.{options}",
            template=template,
            max_answer_tokens=1,
            answers=answers,
        )
