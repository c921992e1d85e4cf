"""Loads a release folder, checked against its hashes, and classifies texts with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.contracts.model_folder import CONFIG_FILE, WEIGHTS_FILE, read_description
from flywheel.errors import ArtefactError
from flywheel.serving.engine import InProcess

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from flywheel.serving.encoder import Encoder

_BATCH = 32


class Classifier(InProcess):
    """A loaded release. ``predict`` may be called from several threads at once."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        *,
        temperature: float,
        pad: int,
    ) -> None:
        self.labels = tuple(labels)
        self._encoder, self._tokenizer = encoder, tokenizer
        self._temperature, self._pad = temperature, pad

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Calibrated probabilities of every label for each text, in the order of ``texts``.

        Texts of similar length share a batch; a text's answer does not depend on its neighbours.
        """
        import torch

        if not texts:
            return []
        encoded = [item.ids for item in self._tokenizer.encode_batch_fast(list(texts))]
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        answers: list[dict[str, float]] = [{}] * len(encoded)
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH):
                chosen = order[start : start + _BATCH]
                logits = self._logits([encoded[index] for index in chosen]).to(torch.float64)
                rows = torch.softmax(logits / self._temperature, dim=-1).tolist()
                for index, row in zip(chosen, rows, strict=True):
                    answers[index] = dict(zip(self.labels, row, strict=True))
        return answers

    def _logits(self, sequences: list[list[int]]) -> Tensor:
        import torch

        longest, shortest = len(sequences[-1]), len(sequences[0])
        ids = torch.tensor([s + [self._pad] * (longest - len(s)) for s in sequences])
        if longest == shortest:
            return self._encoder(ids, None)
        return self._encoder(ids, torch.tensor([len(s) for s in sequences]))


def load_classifier(path: Path, threads: int) -> Classifier:
    """The classifier in a release folder, on ``threads`` CPU threads of this process (0: all).

    Raises ArtefactError, naming the file, when one is missing, truncated or changed since the
    release was made.
    """
    import os

    # Threads that spin while they wait starve the other processes of a small machine, and OpenMP
    # reads this when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from flywheel.serving.encoder import Encoder

    about = read_description(path)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    try:
        config = json.loads((path / CONFIG_FILE).read_text("utf-8"))
        if config.get("model_type") != "bert":
            raise ArtefactError(
                f"{path}: model_type {config.get('model_type')!r} is not supported; "
                "the embedded engine runs models of the BERT family"
            )
        encoder = Encoder(config, load_file(path / WEIGHTS_FILE), about.pooling)
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(min(about.max_tokens, encoder.max_positions))
        return Classifier(
            encoder,
            tokenizer,
            about.labels,
            temperature=about.temperature,
            pad=int(config.get("pad_token_id") or 0),
        )
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ArtefactError(f"{path} holds no usable classifier: {error}") from error
