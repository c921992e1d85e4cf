"""What answers of a task can be: one of its labels, or free text; all that differs by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from flywheel.contracts.model_folder import Output, Prompt
from flywheel.kinds.predictions import Prediction
from flywheel.kinds.signals import Signals


class Answers(Protocol):
    """The answers that a task, or a release, can give."""

    @property
    def output(self) -> Output:
        """How releases, manifests and metrics name them."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label, in the order experts see them; free text has none."""
        ...

    @property
    def scored(self) -> bool:
        """Whether an answer has a calibrated probability for each label. One that has not has the
        confidence which its server reported, and as many tokens as were written."""
        ...

    @property
    def part(self) -> str:
        """Begins the name of the template with the parts of pages that take and show answers."""
        ...

    # What is an answer, and which are the same.

    def knows(self, value: object) -> bool:
        """Whether a value is one of the labels; any will do where there are none."""
        ...

    def problem(self, value: str) -> str | None:
        """Why a value that is known cannot be a right answer, or None."""
        ...

    def agreeing(self, value: str) -> str:
        """What two answers must share to say the same."""
        ...

    def counted_as(self, value: str) -> str:
        """What an answer is counted, and drawn evenly, by."""
        ...

    @property
    def label_studio(self) -> tuple[str, str]:
        """The type of Label Studio's results that hold one, and the field of its value."""
        ...

    @property
    def drawn_from(self) -> str:
        """Whose samples a draw is even over, within a sentence."""
        ...

    # Triage.

    def given(self, output: str | None, scores: Mapping[str, float]) -> str:
        """The answer of a release, from what was recorded of it; see ``judged``."""
        ...

    def judged(
        self, output: str | None, scores: Mapping[str, float], confidence: float | None
    ) -> bool:
        """Whether what was recorded holds an answer and how sure the release was of it."""
        ...

    def signals(
        self, scores: Mapping[str, float], confidence: float, temperature: float
    ) -> Signals:
        """How unsure a release was; ``confidence`` is the one that it reported."""
        ...

    def least_unsure(self, confidence: float) -> float:
        """About the lowest score of ``signals`` among answers below a confidence."""
        ...

    # Measuring, and saying.

    def measure(self, predictions: Sequence[Prediction], confidence: float) -> dict[str, Any]:
        """The metrics that only such answers have, as JSON values; intervals at ``confidence``."""
        ...

    @property
    def described(self) -> str:
        """All of them, within a sentence."""
        ...

    @property
    def of_task(self) -> str:
        """A task that has them, within a sentence."""
        ...

    @property
    def called(self) -> str:
        """What they are called: what a release answers with."""
        ...

    @property
    def accuracy_name(self) -> str:
        """What the share of right answers is called."""
        ...

    def content_words(self, temperature: float) -> str:
        """What the content of a chat completion is; goes on after "The answer's content"."""
        ...

    def prompt(
        self,
        *,
        system: str,
        template: str,
        max_answer_tokens: int,
        title: str,
        label_titles: Mapping[str, str],
    ) -> Prompt:
        """How a language model is asked for one."""
        ...
