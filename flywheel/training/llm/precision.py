"""Loss scaling for FP16: the scale follows what the gradients look like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16", "float16"]
LARGEST_FP16 = 65504.0
_SMALLEST_SCALE = 2.0**-14
_LARGEST_SCALE = 2.0**24


def choose_precision(asked: Literal["auto"] | Precision) -> Precision:
    """What "auto" means on this machine: the fastest that learns as well.

    A processor without bfloat16 instructions emulates them, three times slower than FP32.
    """
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


@dataclass(frozen=True)
class GradientStatistics:
    """What one step's gradients look like, with the loss' scale taken out of norm and largest.

    ``zero`` and ``infinite`` (or no number) are shares of all their elements.
    """

    norm: float
    largest: float
    zero: float
    infinite: float


def look_at(gradients: Sequence[Tensor], scale: float) -> GradientStatistics:
    """The statistics of gradients that were made with a loss multiplied by ``scale``."""
    elements = sum(gradient.numel() for gradient in gradients)
    zero = sum(int((gradient == 0).sum()) for gradient in gradients)
    bad = sum(int((~torch.isfinite(gradient)).sum()) for gradient in gradients)
    norms = torch.stack([torch.linalg.vector_norm(gradient.float()) for gradient in gradients])
    largest = torch.stack([gradient.abs().max() for gradient in gradients]).max()
    return GradientStatistics(
        norm=float(torch.linalg.vector_norm(norms)) / scale,
        largest=float(largest) / scale,
        zero=zero / elements,
        infinite=bad / elements,
    )


@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by so that small gradients don't vanish in FP16.

    ``good`` steps have passed since the scale last changed. Frozen: ``after`` gives the next one.
    """

    scale: float = 1.0
    dynamic: bool = False
    good: int = 0
    grow_after: int = 50
    hurry_after: int = 10
    vanishing: float = 0.05

    @classmethod
    def for_precision(cls, precision: str) -> LossScale:
        """Dynamic for float16; the others have the exponents of FP32 and need none."""
        return cls(scale=2.0**12, dynamic=True) if precision == "float16" else cls()

    def after(self, seen: GradientStatistics) -> LossScale:
        """The scale for the next step.

        Backs off at once when a gradient is no number, and grows after a row of good steps: sooner
        when more of the gradients vanish, and not into what FP16 cannot hold.
        """
        if not self.dynamic:
            return self
        if seen.infinite > 0 or not math.isfinite(seen.norm):
            return self._with(max(self.scale / 2, _SMALLEST_SCALE), 0)
        needed = self.hurry_after if seen.zero > self.vanishing else self.grow_after
        grown = min(self.scale * 2, _LARGEST_SCALE)
        if self.good + 1 < needed or seen.largest * grown > LARGEST_FP16 / 2:
            return self._with(self.scale, self.good + 1)
        return self._with(grown, 0)

    @property
    def exhausted(self) -> bool:
        """Whether backing off further would help nobody: the gradients are bad, not the scale."""
        return self.dynamic and self.scale <= _SMALLEST_SCALE

    def _with(self, scale: float, good: int) -> LossScale:
        return replace(self, scale=scale, good=good)
