"""Answers that are texts: right when they say the same as the settled one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from flywheel.contracts.answers import normalised, text_problem
from flywheel.contracts.model_folder import Output, Prompt
from flywheel.kinds.answers import Answers
from flywheel.kinds.predictions import Prediction
from flywheel.kinds.signals import Signals, text_signals

# Free texts are counted together: there would be as many counts as samples.
TEXT = "text"


class FreeText(Answers):
    """Any text."""

    labels: tuple[str, ...] = ()
    output: Output = "text"
    scored = False
    part = "free_text"
    of_task = "a task that generates text"
    called = described = "free text"
    accuracy_name = "Exact matches"
    label_studio = ("textarea", "text")
    drawn_from = "the"

    @override
    def knows(self, value: object) -> bool:
        return True

    @override
    def problem(self, value: str) -> str | None:
        return text_problem(value)

    @override
    def agreeing(self, value: str) -> str:
        return normalised(value)

    @override
    def counted_as(self, value: str) -> str:
        return TEXT

    @override
    def given(self, output: str | None, scores: Mapping[str, float]) -> str:
        return output or ""

    @override
    def judged(
        self, output: str | None, scores: Mapping[str, float], confidence: float | None
    ) -> bool:
        return bool(scores) or (output is not None and confidence is not None)

    @override
    def signals(
        self, scores: Mapping[str, float], confidence: float, temperature: float
    ) -> Signals:
        return text_signals(confidence)

    @override
    def least_unsure(self, confidence: float) -> float:
        return text_signals(confidence).score

    @override
    def measure(self, predictions: Sequence[Prediction], confidence: float) -> dict[str, Any]:
        from flywheel.kinds.text_metrics import measure_text

        return measure_text(predictions)

    @override
    def content_words(self, temperature: float) -> str:
        return "is generated"

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
        return Prompt(system=system, template=template, max_answer_tokens=max_answer_tokens)
