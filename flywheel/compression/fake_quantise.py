"""Quantisation-aware training: the module computes as if it were INT8, and keeps FP32 weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flywheel.compression.int8 import is_dense

_WORDS = "bert.embeddings.word_embeddings"


def fake_rows(x: Tensor) -> Tensor:
    """What ``x`` (…, width) is after INT8 with one scale a row; gradients pass straight through."""
    flat = x.reshape(-1, x.shape[-1]).to(torch.float32)
    scale = flat.detach().abs().amax(dim=1).clamp_min(1e-8) / 127.0
    zero = torch.zeros_like(scale, dtype=torch.int32)
    fake = torch.fake_quantize_per_channel_affine(flat, scale, zero, 0, -127, 127)
    return fake.reshape(x.shape)


class _FakeRows(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return fake_rows(weight)


def compute_as_int8(model: Any) -> Callable[[], None]:
    """Have the encoder's dense layers and token embeddings compute what INT8 with one scale a row
    and a token does. Returns what undoes it."""
    handles = []
    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and is_dense(f"{name}.weight")
    ]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _FakeRows())
        handles.append(layer.register_forward_pre_hook(lambda _, given: (fake_rows(given[0]),)))
    # A row that was looked up has the scale that its row of the table has.
    words = model.get_submodule(_WORDS)
    handles.append(words.register_forward_hook(lambda *given: fake_rows(given[-1])))

    def undo() -> None:
        for handle in handles:
            handle.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)

    return undo
