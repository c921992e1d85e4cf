"""A text as a language model reads it, in token ids: one home for training, calibration and
serving, so that what was trained is what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from flywheel.contracts.model_folder import ModelDescription, Prompt
from flywheel.errors import ArtefactError, ConfigurationError

# Texts after which a letter must be the same token: a template may end with the text itself.
_ENDINGS = ("", "A", "1", "Which one?", "two words", "a\n")


class Chat:
    """Token ids of the chats that a prompt makes of texts. Thread-safe once it was used."""

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        """``tokenizer`` is one of transformers'.

        Raises ConfigurationError when it has no chat template, or one that takes no question.
        """
        if not tokenizer.chat_template:
            raise ConfigurationError(
                "training.base_model",
                "its tokenizer has no chat template",
                "use a model that was tuned for instructions",
            )
        from jinja2 import TemplateError

        self._tokenizer, self._prompt = tokenizer, prompt
        try:
            self._empty = self._written("")
        except TemplateError:
            # Gemma's knows no system message: what it would say stands before the text.
            self._prompt = msgspec.structs.replace(
                prompt, system="", template=f"{prompt.system}\n\n{prompt.template}".lstrip()
            )
            try:
                self._empty = self._written("")
            except TemplateError as error:
                raise ConfigurationError(
                    "training.base_model", f"its chat template takes no such chat: {error}"
                ) from error
        self.least = len(self._encode(self._empty))

    @classmethod
    def of_folder(cls, model: Path, prompt: Prompt) -> Chat:
        """A chat by a model folder's tokenizer. Raises ArtefactError when that is unreadable."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
            return cls(tokenizer, prompt)
        except (OSError, ValueError, KeyError, TypeError, ConfigurationError) as error:
            raise ArtefactError(f"{model} has no tokenizer that can be used: {error}") from error

    def ids(self, text: str) -> list[int]:
        """The chat about ``text``, up to where the answer begins."""
        return self._encode(self._written(text))

    def cut(self, text: str, room: int) -> tuple[list[int], int]:
        """The chat in at most ``room`` tokens, and how many the text lost at its end for that.

        Raises ConfigurationError when not even a chat without any text fits.
        """
        ids = self.ids(text)
        whole = len(ids)
        if whole <= room:
            return ids, 0
        ends = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        keep = min(room - self.least, len(ends["input_ids"]))
        while keep > 0:
            ids = self.ids(text[: ends["offset_mapping"][keep - 1][1]])
            if len(ids) <= room:
                return ids, whole - len(ids)
            keep -= len(ids) - room
        raise ConfigurationError(
            "lora.max_tokens",
            f"a prompt without any text takes {self.least} tokens, and {room} are left for all "
            "of it",
        )

    def answer(self, text: str) -> list[int]:
        """Token ids of an answer as they stand after the chat, which is not always as they stand
        alone: many tokenizers begin a text of its own with a space."""
        return self._after(self._empty, text) or self._encode(text)

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens of an answer say."""
        said: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return said

    def ends(self, also: int | Sequence[int] | None = None) -> set[int]:
        """The tokens that end an answer: the tokenizer's own, and what a model names."""
        named = [also] if isinstance(also, int) else also or []
        own = self._tokenizer.eos_token_id
        return {*named, own} - {None}

    def letters(self, labels: Sequence[str]) -> dict[str, int]:
        """Label → the token that stands for it after the chat.

        Raises ConfigurationError when a label has no letter, or its letter is there not one token
        of its own, the same after every text.
        """
        chats = [self._written(text) for text in _ENDINGS]
        tokens: dict[str, int] = {}
        for label in labels:
            letter = self._prompt.answers.get(label, "")
            continuations = {tuple(self._after(chat, letter)) for chat in chats} if letter else {()}
            ids = continuations.pop()
            if continuations or len(ids) != 1 or ids[0] in tokens.values():
                raise ConfigurationError(
                    "prompt.answers",
                    f"{label!r} is answered with {letter!r}, not one token of its own after the "
                    "chat template of training.base_model",
                    "use a base model whose chat template ends otherwise",
                )
            tokens[label] = ids[0]
        return tokens

    def trained_letters(self, about: ModelDescription) -> dict[str, int]:
        """Label → the token that it was trained with.

        A release made before these were kept was trained with letters as they stand alone. Raises
        ArtefactError when this tokenizer reads them otherwise than the one of the training did.
        """
        if about.letters:
            try:
                here = self.letters(about.labels)
            except ConfigurationError as error:
                raise ArtefactError(f"its tokenizer reads its letters otherwise: {error}") from None
            if here != about.letters:
                raise ArtefactError(
                    f"its tokenizer reads its letters as the tokens {here}; it was trained with "
                    f"{about.letters}"
                )
            return here
        answers = self._prompt.answers
        missing = [label for label in about.labels if label not in answers]
        if missing:
            raise ArtefactError(f"the prompt has no answer for {', '.join(missing)}")
        alone = {label: self._encode(answers[label]) for label in about.labels}
        if any(len(ids) != 1 for ids in alone.values()) or len(
            {ids[0] for ids in alone.values()}
        ) < len(alone):
            raise ArtefactError(f"its letters are not one token each: {alone}")
        return {label: ids[0] for label, ids in alone.items()}

    def _after(self, chat: str, text: str) -> list[int]:
        """The tokens that ``text`` adds to ``chat``; none where it changes the chat's own."""
        before, whole = self._encode(chat), self._encode(chat + text)
        return whole[len(before) :] if whole[: len(before)] == before else []

    def _written(self, text: str) -> str:
        chat: str = self._tokenizer.apply_chat_template(
            self._prompt.messages(text), add_generation_prompt=True, tokenize=False
        )
        return chat

    def _encode(self, text: str) -> list[int]:
        # As engines do it: the template has every special token already.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids
