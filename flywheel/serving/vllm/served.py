"""Releases as the model server sees them, answered by a vLLM server."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from flywheel.contracts.chat import Chat
from flywheel.contracts.model_folder import ModelDescription, Prompt
from flywheel.contracts.text_tokens import read_tokens
from flywheel.errors import ArtefactError
from flywheel.serving.engine import Classified, Generated
from flywheel.serving.vllm.lease import Lease

Answer = TypeVar("Answer")

_log = structlog.get_logger(__name__)

# Requests that an encoder's server has at a time, each with a batch of texts: while it computes
# one, the next is already there.
_ENCODER_PARALLEL = 2


class _Remote:
    """What all of them share: they live and die with their place on a server."""

    def __init__(self, lease: Lease, release: str, parallel: int, batch: int) -> None:
        self._lease, self._release = lease, release
        self._client = lease.server.client
        self.parallel, self.batch = parallel, batch

    @property
    def server_url(self) -> str:
        """The vLLM server that answers."""
        return self._client.url

    def problem(self) -> str | None:
        """Why its server answers no more, or None."""
        return self._lease.server.problem()

    def close(self) -> None:
        """Give up the place on the server."""
        self._lease.close()


class VllmEncoder(_Remote):
    """An encoder with a classification head. Tokens are made here, as the embedded engine does."""

    def __init__(
        self, lease: Lease, release: str, folder: Path, about: ModelDescription, positions: int
    ) -> None:
        super().__init__(lease, release, _ENCODER_PARALLEL, 0)
        self.labels = about.labels
        self._tokens = read_tokens(folder, min(about.max_tokens, positions))

    def classify(self, texts: Sequence[str]) -> list[Classified]:
        """Calibrated probabilities: the temperature is in the weights that vLLM loaded."""
        if not texts:
            return []
        read = self._tokens(texts)
        rows = self._client.classify(self._release, [tokens.ids for tokens in read])
        return [
            Classified(
                scores=dict(zip(self.labels, row, strict=True)),
                tokens_in=len(tokens.ids),
                tokens_cut=tokens.cut,
            )
            for row, tokens in zip(rows, read, strict=True)
        ]


class _Prompted(_Remote):
    """A language model, asked by its prompt. Tokens are made here, as training makes them, and a
    text that is too long loses its end, as it did there."""

    def __init__(
        self, lease: Lease, release: str, model: Path, about: ModelDescription, parallel: int
    ) -> None:
        """``model`` is the folder with the tokenizer."""
        super().__init__(lease, release, parallel, 1)
        self._prompt = about.prompt or Prompt()
        self._chat = Chat.of_folder(model, self._prompt)
        most = self._client.longest(release) - self._prompt.max_answer_tokens
        self._room = min(about.max_tokens, most)
        if most < about.max_tokens - 1:
            _log.warning(
                "texts lose more of their end than in training: raise serving.vllm.max_tokens",
                release=release,
                tokens=most,
                in_training=about.max_tokens,
            )
        if self._room <= self._chat.least:
            raise ArtefactError(
                f"{release}: its prompt takes {self._chat.least} tokens without any text, and no "
                f"more than {self._room} are left for all of it"
            )


class VllmChooser(_Prompted):
    """A language model that answers with one letter per label."""

    def __init__(
        self, lease: Lease, release: str, model: Path, about: ModelDescription, parallel: int
    ) -> None:
        super().__init__(lease, release, model, about, parallel)
        self.labels, self._temperature = about.labels, about.temperature
        try:
            letters = self._chat.trained_letters(about)
        except ArtefactError as error:
            raise ArtefactError(f"{release}: {error}") from error
        self._choices = [letters[label] for label in self.labels]
        # A server that chooses among other tokens is refused here, not at the first request.
        self._one("")

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Softmax of the answers' log-probabilities over the temperature."""
        return [answer.scores for answer in self.classify(texts)]

    def classify(self, texts: Sequence[str]) -> list[Classified]:
        """The same, and how much of a text there was no room for."""
        return _each(self._one, texts, self.parallel)

    def _one(self, text: str) -> Classified:
        ids, cut = self._chat.cut(text, self._room)
        logs = self._client.choose(self._release, ids, self._choices)
        scaled = [value / self._temperature for value in logs]
        highest = max(scaled)
        weights = [math.exp(value - highest) for value in scaled]
        total = sum(weights)
        scores = {label: weight / total for label, weight in zip(self.labels, weights, strict=True)}
        return Classified(scores=scores, tokens_in=len(ids), tokens_cut=cut)


class VllmWriter(_Prompted):
    """A language model that answers with text."""

    labels: tuple[str, ...] = ()

    def generate(self, texts: Sequence[str]) -> list[Generated]:
        """The likeliest answer to each text."""
        return _each(self._one, texts, self.parallel)

    def _one(self, text: str) -> Generated:
        ids, cut = self._chat.cut(text, self._room)
        generated = self._client.generate(self._release, ids, self._prompt.max_answer_tokens)
        return msgspec.structs.replace(generated, tokens_cut=cut)


def _each(ask: Callable[[str], Answer], texts: Sequence[str], parallel: int) -> list[Answer]:
    """One request per text. The model server asks with one at a time, from several threads."""
    if len(texts) == 1:
        return [ask(texts[0])]
    with ThreadPoolExecutor(min(parallel, max(1, len(texts)))) as pool:
        return list(pool.map(ask, texts))
