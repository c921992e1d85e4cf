"""What a BERT's configuration may ask for: what every path here computes, and what none does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from flywheel.contracts.model_folder import CONFIG_FILE

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
# Fewer leave no room between the special tokens.
SHORTEST_LIMIT = 8
# Larger ones are how tokenizers say that they have no limit.
_NO_LIMIT = 1 << 30
_LIMITS = (
    (CONFIG_FILE, "max_position_embeddings"),
    ("tokenizer_config.json", "model_max_length"),
    ("sentence_bert_config.json", "max_seq_length"),
)


def unread_part(config: Mapping[str, Any]) -> str | None:
    """What in ``config`` asks for another network than the one that is served, or None."""
    if config.get("is_decoder"):
        return "is_decoder: it reads from left to right, with a causal mask"
    if config.get("add_cross_attention"):
        return "add_cross_attention: it reads the states of another model"
    places = config.get("position_embedding_type") or "absolute"
    if places != "absolute":
        return f"position_embedding_type {places!r}: absolute ones alone are read"
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        return f"hidden_act {activation!r}: known are {', '.join(ACTIVATIONS)}"
    return None


def longest_text(folder: Path) -> int:
    """The most tokens of a text that an encoder reads: the least of its table of positions, its
    tokenizer's limit and that of sentence-transformers. 512 where no file says anything."""
    limits = [_number(folder / file, key) for file, key in _LIMITS]
    return min((limit for limit in limits if limit is not None), default=512)


def _number(path: Path, key: str) -> int | None:
    try:
        value = msgspec.json.decode(path.read_bytes(), type=dict[str, Any]).get(key)
    except (OSError, msgspec.MsgspecError):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if SHORTEST_LIMIT <= value < _NO_LIMIT else None
