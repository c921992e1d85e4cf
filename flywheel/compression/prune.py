"""Structured pruning: whole FFN channels, attention heads and layers leave the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LAYER = "bert.encoder.layer"
# Kernels multiply in blocks: a width that is no multiple of them is padded and saves nothing.
_BLOCK = 16

State = dict[str, Tensor]


def prune_ffn(weights: Mapping[str, Tensor], config: dict[str, Any], share: float) -> State:
    """Remove ``share`` of the FFN channels of each layer: those with the smallest L1 norm of the
    weights that lead into and out of them. Changes ``config`` accordingly."""
    state = dict(weights)
    width = int(config["intermediate_size"])
    kept = min(width, max(_BLOCK, round(width * (1 - share) / _BLOCK) * _BLOCK))
    for index in range(int(config["num_hidden_layers"])):
        up, down = f"{LAYER}.{index}.intermediate.dense", f"{LAYER}.{index}.output.dense"
        norms = state[f"{up}.weight"].abs().sum(dim=1) + state[f"{down}.weight"].abs().sum(dim=0)
        chosen = _largest(norms, kept)
        state[f"{up}.weight"] = state[f"{up}.weight"][chosen].contiguous()
        state[f"{up}.bias"] = state[f"{up}.bias"][chosen].contiguous()
        state[f"{down}.weight"] = state[f"{down}.weight"][:, chosen].contiguous()
    config["intermediate_size"] = kept
    return state


def prune_heads(weights: Mapping[str, Tensor], config: dict[str, Any], share: float) -> State:
    """Remove ``share`` of the attention heads of each layer, by the L1 norm of their weights.

    ``config`` then says ``head_size``, which Hugging Face's BERT derives from the width: only the
    embedded engine serves such a model, and others refuse its shapes.
    """
    state = dict(weights)
    heads = int(config["num_attention_heads"])
    size = int(config.get("head_size") or int(config["hidden_size"]) // heads)
    kept = max(1, round(heads * (1 - share)))
    for index in range(int(config["num_hidden_layers"])):
        attention = f"{LAYER}.{index}.attention"
        inward = [f"{attention}.self.{part}" for part in ("query", "key", "value")]
        outward = f"{attention}.output.dense.weight"
        norms = sum(state[f"{name}.weight"].abs().sum(dim=1) for name in inward)
        norms = norms + state[outward].abs().sum(dim=0)
        chosen = _largest(norms.reshape(heads, size).sum(dim=1), kept)
        rows = (chosen[:, None] * size + torch.arange(size)[None, :]).reshape(-1)
        for name in inward:
            state[f"{name}.weight"] = state[f"{name}.weight"][rows].contiguous()
            state[f"{name}.bias"] = state[f"{name}.bias"][rows].contiguous()
        state[outward] = state[outward][:, rows].contiguous()
    config["num_attention_heads"], config["head_size"] = kept, size
    return state


def keep_layers(weights: Mapping[str, Tensor], config: dict[str, Any], count: int) -> State:
    """Keep ``count`` layers, evenly spread. Changes ``config`` accordingly."""
    kept = spread(int(config["num_hidden_layers"]), count)
    state = {name: tensor for name, tensor in weights.items() if not name.startswith(LAYER)}
    for new, old in enumerate(kept):
        prefix = f"{LAYER}.{old}."
        for name, tensor in weights.items():
            if name.startswith(prefix):
                state[f"{LAYER}.{new}.{name.removeprefix(prefix)}"] = tensor
    config["num_hidden_layers"] = len(kept)
    return state


def spread(layers: int, count: int) -> Sequence[int]:
    """``count`` of so many layers, evenly spread from the first: of 6 layers 3 are 0, 2, 4."""
    return [index * layers // count for index in range(count)]


def _largest(norms: Tensor, count: int) -> Tensor:
    """The indices of the largest, in their old order."""
    return torch.sort(torch.topk(norms, count).indices).values
