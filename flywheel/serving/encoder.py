"""The forward pass of a BERT-family classifier, in FP32 or with INT8 matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as nnf

from flywheel.contracts.model_folder import Pooling
from flywheel.contracts.pooling import pooled, unit_length

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": nnf.gelu,
    "gelu_new": lambda x: nnf.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: nnf.gelu(x, approximate="tanh"),
    "relu": nnf.relu,
}


class Linear(Protocol):
    """A dense layer: (rows, inputs) → (rows, outputs)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        ...


class FloatLinear:
    """FP32 weights."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        return nnf.linear(x, self.weight, self.bias)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """INT8 values and one scale a row, symmetric: a token's values depend on that token alone,
    so an answer does not change with the batch it happens to be in."""
    scale = x.abs().amax(dim=1, keepdim=True).clamp_min_(1e-8).div_(127.0)
    return x.div(scale).round_().to(torch.int8), scale


class Int8Linear:
    """INT8 weights with one scale an output; inputs are quantised per row as they come."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor, *, integer: bool) -> None:
        """``integer``: multiply with the CPU's INT8 instructions, else the same values in FP32."""
        self.weight = weight.t().contiguous() if integer else weight.to(torch.float32).t()
        self.scale, self.bias, self.integer = scale.reshape(1, -1).to(torch.float32), bias, integer

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        values, row_scale = quantise_rows(x)
        if self.integer:
            product = torch._int_mm(values, self.weight).to(torch.float32)
        else:
            product = values.to(torch.float32) @ self.weight
        return torch.addcmul(self.bias, product.mul_(self.scale), row_scale)


class StaticInt8Linear:
    """INT8 weights with one scale an output; inputs are quantised by one scale, known before."""

    def __init__(
        self, weight: Tensor, scale: Tensor, input_scale: float, bias: Tensor, *, integer: bool
    ) -> None:
        """``integer``: multiply with the CPU's INT8 instructions, else the same values in FP32."""
        self.weight = weight.t().contiguous() if integer else weight.to(torch.float32).t()
        self.per_input = 1.0 / input_scale
        self.scale = (scale.reshape(1, -1).to(torch.float32) * input_scale).contiguous()
        self.bias, self.integer = bias, integer

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it."""
        values = x.mul(self.per_input).round_().clamp_(-127, 127)
        if self.integer:
            product = torch._int_mm(values.to(torch.int8), self.weight).to(torch.float32)
        else:
            product = values @ self.weight
        return torch.addcmul(self.bias, product, self.scale)


def integer_products_exact() -> bool:
    """Whether this CPU multiplies INT8 matrices without saturating.

    Instruction sets before VNNI add pairs of products in 16 bits, and large values overflow there;
    the check multiplies the largest values there are.
    """
    rows = torch.full((4, 64), 127, dtype=torch.int8)
    try:
        product = torch._int_mm(rows, torch.full((64, 16), 127, dtype=torch.int8))
        mixed = torch._int_mm(rows, torch.full((64, 16), -127, dtype=torch.int8))
    except RuntimeError:
        return False
    exact = 64 * 127 * 127
    return bool((product == exact).all()) and bool((mixed == -exact).all())


@cache
def integer_products_pay() -> bool:
    """Whether this CPU multiplies INT8 matrices exactly, and no slower than the same in FP32.

    Without VNNI torch multiplies them one by one: exactly, and forty times slower than FP32. The
    shorter of three products of each kind decides, milliseconds in all.
    """
    if not integer_products_exact():
        return False
    rows = torch.ones((64, 384), dtype=torch.int8)
    weight = torch.ones((384, 384), dtype=torch.int8)
    in_float = weight.to(torch.float32)
    with torch.inference_mode():
        whole = _shortest(lambda: torch._int_mm(rows, weight))
        real = _shortest(lambda: rows.to(torch.float32) @ in_float)
    return whole <= real


def _shortest(product: Callable[[], Tensor]) -> float:
    """Seconds of the fastest of three, after one to warm up."""
    product()
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        product()
        taken.append(time.perf_counter() - began)
    return min(taken)


class _Layer:
    def __init__(
        self, prefix: str, linear: Callable[[Sequence[str]], Linear], weights: Mapping[str, Tensor]
    ) -> None:
        attention = f"{prefix}.attention"
        self.qkv = linear([f"{attention}.self.{part}" for part in ("query", "key", "value")])
        self.attention_out = linear([f"{attention}.output.dense"])
        self.attention_norm = _norm(weights, f"{attention}.output.LayerNorm")
        self.up = linear([f"{prefix}.intermediate.dense"])
        self.down = linear([f"{prefix}.output.dense"])
        self.norm = _norm(weights, f"{prefix}.output.LayerNorm")


class Encoder:
    """Token ids → logits. Holds tensors only; safe to call from several threads."""

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        pooling: Pooling,
        *,
        normalise: bool = False,
    ) -> None:
        """``config`` is config.json of a sequence classifier, ``weights`` its safetensors."""
        self._pooling, self._normalise = pooling, normalise
        self.heads = int(config["num_attention_heads"])
        self.head_size = int(config.get("head_size") or int(config["hidden_size"]) // self.heads)
        self.eps = float(config.get("layer_norm_eps", 1e-12))
        self.activation = _ACTIVATIONS[config.get("hidden_act", "gelu")]
        self._weights = weights
        integer = "bert.encoder.layer.0.output.dense.weight_scale" in weights
        self._integer = integer and integer_products_pay()
        embeddings = "bert.embeddings"
        self.words = weights[f"{embeddings}.word_embeddings.weight"]
        self.word_scale = weights.get(f"{embeddings}.word_embeddings.weight_scale")
        types = _float(weights[f"{embeddings}.token_type_embeddings.weight"])
        self.places = _float(weights[f"{embeddings}.position_embeddings.weight"]) + types[0]
        self.norm = _norm(weights, f"{embeddings}.LayerNorm")
        self.layers = [
            _Layer(f"bert.encoder.layer.{index}", self._linear, weights)
            for index in range(int(config["num_hidden_layers"]))
        ]
        self.pooler = self._linear(["bert.pooler.dense"]) if pooling == "cls" else None
        self.head = self._linear(["classifier"])
        del self._weights

    @property
    def integers(self) -> bool:
        """Whether every dense layer of the encoder holds INT8 weights (False: none does).

        Raises ValueError for a mixture.
        """
        kinds = {
            not isinstance(linear, FloatLinear)
            for layer in self.layers
            for linear in (layer.qkv, layer.attention_out, layer.up, layer.down)
        }
        if len(kinds) > 1:
            raise ValueError("some dense layers are INT8 and some are not")
        return kinds == {True}

    @property
    def max_positions(self) -> int:
        """The longest sequence of tokens."""
        return self.places.shape[0]

    def _linear(self, names: Sequence[str]) -> Linear:
        """One dense layer; several of the same input become one, for fewer, larger products."""
        weights = self._weights
        bias = torch.cat([_float(weights[f"{name}.bias"]) for name in names])
        weight = torch.cat([weights[f"{name}.weight"] for name in names])
        if weight.dtype != torch.int8:
            return FloatLinear(_float(weight), bias)
        scale = torch.cat([weights[f"{name}.weight_scale"] for name in names])
        if f"{names[0]}.input_scale" in weights:
            # Layers that share an input were calibrated on the same values.
            known = max(float(weights[f"{name}.input_scale"]) for name in names)
            return StaticInt8Linear(weight, scale, known, bias, integer=self._integer)
        return Int8Linear(weight, scale, bias, integer=self._integer)

    def _embed(self, ids: Tensor, places: Tensor) -> Tensor:
        words = _float(nnf.embedding(ids, self.words))
        if self.word_scale is not None:
            words = words.mul_(nnf.embedding(ids, self.word_scale))
        embedded = words + nnf.embedding(places, self.places)
        return nnf.layer_norm(embedded, self.norm[0].shape, *self.norm, self.eps)

    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Token ids of texts, sorted by length → logits (texts, labels).

        Nothing is padded: the tokens of all texts go through the dense layers as the rows of one
        matrix, and texts of one length go through attention together.
        """
        groups = _same_lengths([len(ids) for ids in texts])
        x = self._embed(
            torch.tensor([token for ids in texts for token in ids]),
            torch.tensor([place for ids in texts for place in range(len(ids))]),
        )
        shape = (x.shape[-1],)
        for layer in self.layers:
            mixed = layer.attention_out(self._attend(layer.qkv(x), groups))
            x = nnf.layer_norm(mixed.add_(x), shape, *layer.attention_norm, self.eps)
            inner = layer.down(self.activation(layer.up(x)))
            x = nnf.layer_norm(inner.add_(x), shape, *layer.norm, self.eps)
        return self.head(self._pool(x, groups))

    def _attend(self, qkv: Tensor, groups: Sequence[_Group]) -> Tensor:
        """(tokens, 3 · heads · head size) → (tokens, heads · head size)."""
        width = self.heads * self.head_size
        mixed = qkv.new_empty((qkv.shape[0], width))
        for rows, texts, tokens in groups:
            parts = qkv[rows].view(texts, tokens, 3, self.heads, self.head_size)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
            out = nnf.scaled_dot_product_attention(q, k, v)
            mixed[rows].view(texts, tokens, self.heads, self.head_size).copy_(out.transpose(1, 2))
        return mixed

    def _pool(self, hidden: Tensor, groups: Sequence[_Group]) -> Tensor:
        """(tokens, width) → (texts, width)."""
        vectors = torch.cat(
            [
                pooled(hidden[rows].view(texts, tokens, -1), self._pooling)
                for rows, texts, tokens in groups
            ]
        )
        if self.pooler is not None:
            return torch.tanh(self.pooler(vectors))
        return unit_length(vectors) if self._normalise else vectors


_Group = tuple[slice, int, int]


def _same_lengths(lengths: Sequence[int]) -> list[_Group]:
    """Runs of texts of one length: (their rows among all tokens, texts, tokens of each)."""
    groups: list[_Group] = []
    start = 0
    for tokens, same in groupby(lengths):
        texts = sum(1 for _ in same)
        groups.append((slice(start, start + texts * tokens), texts, tokens))
        start += texts * tokens
    return groups


def _float(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32)


def _norm(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return _float(weights[f"{name}.weight"]), _float(weights[f"{name}.bias"])
