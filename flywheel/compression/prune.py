"""Structured pruning: whole FFN channels, attention heads and layers leave the weights.

What is removed is chosen by L1 norm. Where the activations of some texts are known, what is left
takes over what can be predicted of what went (least squares), so that less has to be learnt again:
without any training, MiniLM on TREC minus a quarter of its channels gets 0.910 and not 0.881 (0.916
with all of them; 404 labels, 1,000 held out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LAYER = "bert.encoder.layer"
# Kernels multiply in blocks: a width that is no multiple of them is padded and saves nothing.
_BLOCK = 16

# Added to the diagonal of a covariance, as a share of its mean: few texts determine little.
_RIDGE = 0.01

State = dict[str, Tensor]


@dataclass
class Moments:
    """First and second moments of what enters a layer."""

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def empty(cls, width: int) -> Moments:
        """The moments of no inputs."""
        return cls(0, torch.zeros(width), torch.zeros(width, width))

    def add(self, inputs: Tensor) -> None:
        """Count rows (tokens, width)."""
        self.count += inputs.shape[0]
        self.total += inputs.sum(dim=0)
        self.products += inputs.T @ inputs


Activations = Mapping[str, Moments]


def prune_ffn(
    weights: Mapping[str, Tensor],
    config: dict[str, Any],
    share: float,
    seen: Activations | None = None,
) -> State:
    """Remove ``share`` of the FFN channels of each layer: those with the smallest L1 norm of the
    weights that lead into and out of them. Changes ``config`` accordingly. ``seen`` tells, by the
    name of a dense layer, what entered it."""
    state = dict(weights)
    width = int(config["intermediate_size"])
    kept = min(width, max(_BLOCK, round(width * (1 - share) / _BLOCK) * _BLOCK))
    for index in range(int(config["num_hidden_layers"])):
        up, down = f"{LAYER}.{index}.intermediate.dense", f"{LAYER}.{index}.output.dense"
        norms = state[f"{up}.weight"].abs().sum(dim=1) + state[f"{down}.weight"].abs().sum(dim=0)
        chosen = _largest(norms, kept)
        state[f"{up}.weight"] = state[f"{up}.weight"][chosen].contiguous()
        state[f"{up}.bias"] = state[f"{up}.bias"][chosen].contiguous()
        _keep_inputs(state, down, chosen, seen)
    config["intermediate_size"] = kept
    return state


def prune_heads(
    weights: Mapping[str, Tensor],
    config: dict[str, Any],
    share: float,
    seen: Activations | None = None,
) -> State:
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
        outward = f"{attention}.output.dense"
        norms = sum(state[f"{name}.weight"].abs().sum(dim=1) for name in inward)
        norms = norms + state[f"{outward}.weight"].abs().sum(dim=0)
        chosen = _largest(norms.reshape(heads, size).sum(dim=1), kept)
        rows = (chosen[:, None] * size + torch.arange(size)[None, :]).reshape(-1)
        for name in inward:
            state[f"{name}.weight"] = state[f"{name}.weight"][rows].contiguous()
            state[f"{name}.bias"] = state[f"{name}.bias"][rows].contiguous()
        _keep_inputs(state, outward, rows, seen)
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


def _keep_inputs(state: State, layer: str, kept: Tensor, seen: Activations | None) -> None:
    """Leave a dense layer only some of its inputs. Those left also say what the others can be
    expected to have said: their best linear prediction from what is left."""
    weight = state[f"{layer}.weight"]
    state[f"{layer}.weight"] = weight[:, kept].contiguous()
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[kept] = False
    if seen is None or not bool(gone.any()):
        return
    moments = seen[layer]
    mean = moments.total / moments.count
    spread_out = moments.products / moments.count - torch.outer(mean, mean)
    known = spread_out[kept][:, kept]
    known.diagonal().add_(_RIDGE * known.diagonal().mean().clamp_min(1e-12))
    prediction = torch.linalg.solve(known, spread_out[kept][:, gone])
    passed_on = weight[:, gone]
    state[f"{layer}.weight"] += passed_on @ prediction.T
    constant = mean[gone] - mean[kept] @ prediction
    state[f"{layer}.bias"] = state[f"{layer}.bias"] + passed_on @ constant


def _largest(norms: Tensor, count: int) -> Tensor:
    """The indices of the largest, in their old order."""
    return torch.sort(torch.topk(norms, count).indices).values
