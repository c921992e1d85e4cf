"""Reads the encoder that training starts from, and makes sure that it is read as it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flywheel.contracts.encoder_config import longest_text, unread_part
from flywheel.contracts.model_folder import CONFIG_FILE, Pooling, digest
from flywheel.contracts.text_tokens import TextTokens, read_tokens
from flywheel.contracts.tokenizer_file import write_tokenizer
from flywheel.errors import ArtefactError, ConfigurationError
from flywheel.training.encoder import BASE_KEY, EncoderClassifier

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "first_token",
    "lasttoken": "last_token",
    "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
}
_TEXTS = (
    "A short text.",
    "How much does it cost to send a parcel of 2 kg to Łódź, and how long does it take?",
)
# Sums in another order differ by less, relative to the largest value of a text's features.
_TOLERANCE = 1e-3


def reading_limit(folder: Path, max_tokens: int) -> int:
    """The most tokens of a text to read: ``max_tokens`` (0: as many as the base in ``folder`` can).

    Raises ConfigurationError where the base has fewer positions.
    """
    positions = _config(folder).get("max_position_embeddings")
    if isinstance(positions, int) and max_tokens > positions:
        raise ConfigurationError(
            "training.max_tokens",
            f"{max_tokens} is more than the {positions} that {folder.name} can read",
            "0 stands for as many as it can",
        )
    return max_tokens or longest_text(folder)


def load_base(
    folder: Path, labels: int, longest: int, target: Path
) -> tuple[EncoderClassifier, str]:
    """A classifier with a new head on the encoder in ``folder``, and the base's name.

    sentence-transformers reads the folder. Its tokenizer, cutting texts at ``longest`` tokens, is
    written to ``target``, from where training and serving read it. Raises ConfigurationError,
    naming the part, for a folder that holds no encoder of the BERT family, or one whose features
    would be others than sentence-transformers' own.
    """
    from sentence_transformers import SentenceTransformer

    problem = unread_part(_config(folder))
    if problem is not None:
        raise ConfigurationError(BASE_KEY, f"{folder} is not read here: {problem}")
    try:
        sentences = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ConfigurationError(BASE_KEY, f"{folder} cannot be loaded: {error}") from error
    pooling, normalise = _parts(sentences, folder)
    encoder = sentences[0].auto_model.to(torch.float32)
    target.mkdir(parents=True, exist_ok=True)
    try:
        write_tokenizer(sentences.tokenizer, longest, target)
    except ArtefactError as error:
        raise ConfigurationError(BASE_KEY, f"{folder} is not read here: {error}") from error
    tokens = read_tokens(target, longest)
    if tokens.largest_id >= encoder.config.vocab_size:
        raise ConfigurationError(
            BASE_KEY,
            f"{folder}: its tokenizer has ids up to {tokens.largest_id}, its model "
            f"{encoder.config.vocab_size} embeddings",
        )
    model = EncoderClassifier(
        encoder, labels, pooling, float(encoder.config.hidden_dropout_prob), normalise=normalise
    )
    _compare(model, tokens, sentences, folder)
    weights = next(iter(sorted(folder.glob("*.safetensors"))), folder / CONFIG_FILE)
    where = folder.resolve()
    return model, f"{where.parent.name}/{where.name}@{digest(weights).sha256[:12]}"


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigurationError(BASE_KEY, f"{folder} holds no model", "it has no config.json")
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    if config.get("model_type") != "bert":
        raise ConfigurationError(
            BASE_KEY,
            f"{folder} is of type {config.get('model_type')!r}",
            "use an encoder of the BERT family (MiniLM, BGE, E5, GTE and others are)",
        )
    return config


def _parts(sentences: SentenceTransformer, folder: Path) -> tuple[Pooling, bool]:
    """How the modules pool, and whether they normalise. Raises for any other part."""
    from sentence_transformers.sentence_transformer.modules import (
        Dropout,
        Normalize,
        Pooling,
        Transformer,
    )

    first, *rest = list(sentences)
    if not isinstance(first, Transformer):
        raise _unread(folder, type(first).__name__)
    # In use, a dropout does nothing.
    kept = [module for module in rest if not isinstance(module, Dropout)]
    if not kept or not isinstance(kept[0], Pooling):
        raise _unread(folder, type(kept[0]).__name__ if kept else "no Pooling")
    mode = kept[0].pooling_mode
    if mode not in _POOLINGS:
        raise _unread(folder, f"Pooling by {' and '.join(mode)} at once")
    for module in kept[1:]:
        if not isinstance(module, Normalize):
            raise _unread(folder, type(module).__name__)
    if sentences.default_prompt_name is not None:
        raise _unread(folder, f"default_prompt_name {sentences.default_prompt_name!r}")
    if sentences.truncate_dim is not None:
        raise _unread(folder, f"truncate_dim {sentences.truncate_dim}")
    return _POOLINGS[mode], len(kept) > 1


def _unread(folder: Path, part: str) -> ConfigurationError:
    return ConfigurationError(
        BASE_KEY,
        f"{folder} has a part that is not read here: {part}",
        "use an encoder that pools its tokens once, with or without Normalize after it",
    )


def _compare(
    model: EncoderClassifier, tokens: TextTokens, sentences: SentenceTransformer, folder: Path
) -> None:
    """Refuse a base whose features here are others than sentence-transformers' own."""
    texts = [*_TEXTS, f"{' '.join(_TEXTS)} " * (tokens.longest // 16)]
    sentences.max_seq_length = tokens.longest
    if sentences.tokenizer.pad_token is None:  # none is needed for a text at a time
        sentences.tokenizer.pad_token = sentences.tokenizer.convert_ids_to_tokens(0)
    model.eval()
    for text, made in zip(texts, tokens(texts), strict=True):
        wanted = sentences.encode(text, convert_to_tensor=True, show_progress_bar=False)
        ids = torch.tensor([made.ids])
        with torch.inference_mode():
            given = model.features(ids, torch.ones_like(ids))[0]
        if given.shape != wanted.shape:
            raise _unread(folder, f"features of {len(wanted)} values, of {len(given)} here")
        off = float((given - wanted.float()).abs().max())
        if not off <= _TOLERANCE * float(wanted.abs().max()):
            raise ConfigurationError(
                BASE_KEY,
                f"{folder} is not read as sentence-transformers reads it: the features of "
                f"{text[:40]!r} differ by {off:.2g}",
                "use another encoder of the BERT family",
            )
