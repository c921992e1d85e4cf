"""Labelled texts as token ids: the chat as it will be asked, then the answer that is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.contracts.dataset_folder import DatasetLine
from flywheel.contracts.model_folder import Output, Prompt
from flywheel.errors import ConfigurationError, PipelineError

_AUTOMATIC = frozenset({"auto", "rule", "model"})


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
    """Every sample of a dataset, and how many were cut to fit. ``choices`` are the tokens that an
    answer may be, none for free text."""

    samples: tuple[Sample, ...]
    cut: int
    choices: tuple[int, ...]


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
    if not tokenizer.chat_template:
        raise ConfigurationError(
            "training.base_model",
            "its tokenizer has no chat template",
            "use a model that was tuned for instructions",
        )
    letters = letter_tokens(tokenizer, prompt, labels) if output == "label" else {}
    answers = _answers(lines, tokenizer, prompt, letters, output)
    empty = _prompt(tokenizer, prompt, "")
    cut = 0
    samples = []
    for line, answer in zip(lines, answers, strict=True):
        ids = _prompt(tokenizer, prompt, line.text)
        room = max_tokens - len(answer) + 1
        if len(ids) > room:
            ids = _shortened(tokenizer, prompt, line.text, room, len(empty))
            cut += 1
        weight = line.weight * (auto_label_weight if line.source in _AUTOMATIC else 1.0)
        samples.append(Sample(tuple(ids), answer, weight))
    return Encoded(tuple(samples), cut, tuple(letters.values()))


def _answers(
    lines: Sequence[DatasetLine],
    tokenizer: Any,
    prompt: Prompt,
    letters: Mapping[str, int],
    output: Output,
) -> list[tuple[int, ...]]:
    if not lines:
        raise PipelineError("the training part is empty: label more")
    if output == "text":
        end = (_end_of_turn(tokenizer),)
        cap = prompt.max_answer_tokens - 1
        texts = tokenizer([line.label for line in lines], add_special_tokens=False)["input_ids"]
        return [(*ids[:cap], *end) if len(ids) <= cap else tuple(ids[: cap + 1]) for ids in texts]
    given = {line.label for line in lines}
    unknown = sorted(given - letters.keys())
    if unknown:
        raise ConfigurationError("labels", f"the dataset has {unknown}, which are no labels")
    if len(given) < 2:
        raise PipelineError("the training part has samples of fewer than two labels: label more")
    return [(letters[line.label],) for line in lines]


def letter_tokens(tokenizer: Any, prompt: Prompt, labels: Sequence[str]) -> dict[str, int]:
    """Label → the token that stands for it.

    Raises ConfigurationError when a label has no letter, or its letter is not one token.
    """
    tokens: dict[str, int] = {}
    for label in labels:
        letter = prompt.answers.get(label, "")
        ids = tokenizer.encode(letter, add_special_tokens=False) if letter else []
        if len(ids) != 1 or ids[0] in tokens.values():
            raise ConfigurationError(
                "prompt.answers", f"{label!r} is answered with {letter!r}, not one token of its own"
            )
        tokens[label] = int(ids[0])
    return tokens


def _end_of_turn(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ConfigurationError("training.base_model", "its tokenizer has no end-of-text token")
    return int(tokenizer.eos_token_id)


def _prompt(tokenizer: Any, prompt: Prompt, text: str) -> list[int]:
    chat = tokenizer.apply_chat_template(
        prompt.messages(text), add_generation_prompt=True, tokenize=False
    )
    # As engines do it: the template has every special token already.
    ids: list[int] = tokenizer.encode(chat, add_special_tokens=False)
    return ids


def _shortened(tokenizer: Any, prompt: Prompt, text: str, room: int, without: int) -> list[int]:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    keep = room - without
    while keep > 0:
        ids = _prompt(tokenizer, prompt, tokenizer.decode(tokens[:keep]))
        if len(ids) <= room:
            return ids
        keep -= len(ids) - room
    raise ConfigurationError(
        "lora.max_tokens",
        f"a prompt without any text takes {without} tokens, and {room} are left for all of it",
    )
