"""Labelled texts as token ids: the chat as it will be asked, then the answer that is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.contracts.chat import Chat
from flywheel.contracts.dataset_folder import DatasetLine
from flywheel.contracts.labels import AUTOMATIC
from flywheel.contracts.model_folder import Output, Prompt
from flywheel.errors import ConfigurationError, PipelineError
from flywheel.kinds import answers_of


@dataclass(frozen=True)
class Sample:
    """Token ids of a prompt and of the answer after it; ``weight`` multiplies its loss."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float

    def __len__(self) -> int:
        # The answer's last token is only ever a target.
        return len(self.prompt) + len(self.answer) - 1


@dataclass(frozen=True)
class Encoded:
    """Every sample of a dataset, and how many were cut to fit. ``letters`` are the tokens that an
    answer may be, by label; none for free text."""

    samples: tuple[Sample, ...]
    cut: int
    letters: dict[str, int]

    @property
    def choices(self) -> tuple[int, ...]:
        """The tokens that an answer may be."""
        return tuple(self.letters.values())


def encode(
    lines: Sequence[DatasetLine],
    tokenizer: Any,
    prompt: Prompt,
    labels: Sequence[str],
    output: Output,
    *,
    max_tokens: int,
    auto_label_weight: float,
) -> Encoded:
    """Chats with their answers. What is too long loses the end of its text, never its answer.

    A label is answered with its letter alone: one token, as it is asked for in serving. Free text
    ends with the token that ends a turn. Raises ConfigurationError for labels or letters that don't
    fit the tokenizer, PipelineError when fewer than two labels are there to tell apart.
    """
    chat = Chat(tokenizer, prompt)
    chosen = answers_of(output).scored
    letters = chat.letters(labels) if chosen else {}
    if not lines:
        raise PipelineError("the training part is empty: label more")
    if chosen:
        answers = _letters(lines, letters)
    else:
        answers = _texts(lines, chat, tokenizer, prompt.max_answer_tokens)
    cut = 0
    samples = []
    for line, answer in zip(lines, answers, strict=True):
        ids, lost = chat.cut(line.text, max_tokens - len(answer) + 1)
        cut += lost > 0
        weight = line.weight * (auto_label_weight if line.source in AUTOMATIC else 1.0)
        samples.append(Sample(tuple(ids), answer, weight))
    return Encoded(tuple(samples), cut, letters)


def _texts(
    lines: Sequence[DatasetLine], chat: Chat, tokenizer: Any, longest: int
) -> list[tuple[int, ...]]:
    if tokenizer.eos_token_id is None:
        raise ConfigurationError("training.base_model", "its tokenizer has no end-of-text token")
    ended = [(*chat.answer(line.label), int(tokenizer.eos_token_id)) for line in lines]
    return [ids[:longest] for ids in ended]


def _letters(lines: Sequence[DatasetLine], letters: Mapping[str, int]) -> list[tuple[int, ...]]:
    given = {line.label for line in lines}
    unknown = sorted(given - letters.keys())
    if unknown:
        raise ConfigurationError("labels", f"the dataset has {unknown}, which are no labels")
    if len(given) < 2:
        raise PipelineError("the training part has samples of fewer than two labels: label more")
    return [(letters[line.label],) for line in lines]
