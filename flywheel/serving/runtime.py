"""Loads a release folder, checked against its hashes, and classifies texts with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.contracts.encoder_config import unread_part
from flywheel.contracts.model_folder import CONFIG_FILE, WEIGHTS_FILE, Method, read_description
from flywheel.contracts.text_tokens import TextTokens, read_tokens
from flywheel.errors import ArtefactError
from flywheel.serving.engine import Classified, InProcess

if TYPE_CHECKING:
    from flywheel.serving.encoder import Encoder

# Of one pass: more make no text faster, and what lies between the layers must fit into memory.
_BATCH = 32
_BATCH_TOKENS = 2048
# How inputs are quantised: the strategy of their scales, and whether these are found as they come.
_INPUTS = {
    "int8-dynamic": ("token", True),
    "int8-qat": ("token", True),
    "int8-static": ("tensor", False),
}
_PARTS = ("quant_method", "format", "weights of", "input_activations of")


class Classifier(InProcess):
    """A loaded release. ``predict`` may be called from several threads at once."""

    def __init__(
        self,
        encoder: Encoder,
        tokens: TextTokens,
        labels: Sequence[str],
        *,
        temperature: float,
    ) -> None:
        self.labels = tuple(labels)
        self._encoder, self._tokens = encoder, tokens
        self._temperature = temperature

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Calibrated probabilities of every label for each text, in the order of ``texts``."""
        return [answer.scores for answer in self.classify(texts)]

    def classify(self, texts: Sequence[str]) -> list[Classified]:
        """Calibrated probabilities, and how much of a text was not read, in the order of ``texts``.

        Texts of similar length share a batch; a text's answer does not depend on its neighbours.
        """
        import torch

        if not texts:
            return []
        read = self._tokens(texts)
        encoded = [tokens.ids for tokens in read]
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        answers = [Classified(scores={})] * len(encoded)
        with torch.inference_mode():
            for chosen in _batches(order, [len(ids) for ids in encoded]):
                logits = self._encoder([encoded[index] for index in chosen]).to(torch.float64)
                rows = torch.softmax(logits / self._temperature, dim=-1).tolist()
                for index, row in zip(chosen, rows, strict=True):
                    scores = dict(zip(self.labels, row, strict=True))
                    answers[index] = Classified(
                        scores=scores, tokens_in=len(encoded[index]), tokens_cut=read[index].cut
                    )
        return answers


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """``order``, sorted by length, in runs that are taken at once."""
    batches: list[list[int]] = []
    tokens = 0
    for index in order:
        tokens += lengths[index]
        if not batches or len(batches[-1]) == _BATCH or tokens > _BATCH_TOKENS:
            batches.append([])
            tokens = lengths[index]
        batches[-1].append(index)
    return batches


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
        unread = unread_part(config)
        if unread is not None:
            raise ArtefactError(f"{path} is not read here: {unread}")
        check_quantisation(config, about.method)
        weights = load_file(path / WEIGHTS_FILE)
        encoder = Encoder(config, weights, about.pooling, normalise=about.normalise)
        if encoder.integers != (about.method != "none"):
            raise ArtefactError(f"{path}: the weights are not what {about.method!r} stores")
        with torch.inference_mode():
            given = encoder([[0, 0]])  # shapes that don't fit show now and not in traffic
        if given.shape[1] != len(about.labels):
            raise ArtefactError(f"{path}: {given.shape[1]} answers for {len(about.labels)} labels")
        tokens = read_tokens(path, min(about.max_tokens, encoder.max_positions))
        if tokens.largest_id >= encoder.words.shape[0]:
            raise ArtefactError(f"{path}: the tokenizer knows more tokens than the model")
        return Classifier(
            encoder,
            tokens,
            about.labels,
            temperature=about.temperature,
        )
    except (
        SafetensorError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise ArtefactError(f"{path} holds no usable classifier: {error}") from error


def check_quantisation(config: Mapping[str, Any], method: Method) -> None:
    """Raise ArtefactError unless config.json quantises as ``method`` says, in the one format that
    is multiplied here: compressed-tensors, INT8, symmetric, a scale an output."""
    quantisation = config.get("quantization_config")
    if method == "none" and quantisation is None:
        return
    inputs = _INPUTS.get(method)
    if inputs is None or quantisation is None:
        raise ArtefactError(
            f"release.json says {method!r} and config.json "
            + ("no quantisation" if quantisation is None else "a quantisation")
            + ": the embedded engine runs FP32 and "
            + ", ".join(_INPUTS)
        )
    groups = list(dict(quantisation.get("config_groups") or {}).values())
    written = (
        quantisation.get("quant_method"),
        quantisation.get("format"),
        [_scheme(group.get("weights")) for group in groups],
        [_scheme(group.get("input_activations")) for group in groups],
    )
    wanted = (
        "compressed-tensors",
        "int-quantized",
        [(8, "int", True, "channel", False)],
        [(8, "int", True, *inputs)],
    )
    for what, one, other in zip(_PARTS, written, wanted, strict=True):
        if one != other:
            raise ArtefactError(
                f"config.json quantises by {what} {one!r}; for {method!r} the embedded engine "
                f"knows {other!r}"
            )


def _scheme(described: Mapping[str, Any] | None) -> tuple[Any, ...]:
    keys = ("num_bits", "type", "symmetric", "strategy", "dynamic")
    return tuple((described or {}).get(key) for key in keys)
