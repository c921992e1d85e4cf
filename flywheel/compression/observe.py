"""The range of activations: which scale costs a layer's input least when it becomes INT8."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

_BINS = 2048
_CANDIDATES = 100
_SMALLEST_SHARE = 0.2


@dataclass
class Histogram:
    """How often each size of input occurred: bins of |x| from 0 to ``top``, which grows."""

    top: float = 0.0
    counts: Tensor = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.float64))

    def add(self, values: Tensor) -> None:
        """Count the values of a tensor."""
        sizes = values.detach().abs().reshape(-1).to(torch.float32)
        largest = float(sizes.max()) if len(sizes) else 0.0
        if largest > self.top:
            self._widen(largest)
        if self.top > 0:
            self.counts += torch.histc(sizes, _BINS, 0.0, self.top).to(torch.float64)

    def _widen(self, top: float) -> None:
        """Double the range until it holds ``top``; two bins become one each time."""
        if self.top == 0:
            self.top = top
        while self.top < top:
            self.top *= 2
            halves = self.counts.reshape(-1, 2).sum(dim=1)
            self.counts = torch.cat([halves, torch.zeros_like(halves)])


def minmax_scale(seen: Histogram) -> float:
    """The scale that clips nothing that was seen."""
    filled = torch.nonzero(seen.counts)
    if not len(filled):
        return 1.0
    return max(seen.top * (int(filled[-1]) + 1) / _BINS / 127.0, 1e-8)


def percentile_scale(seen: Histogram, percentile: float) -> float:
    """The scale that clips all but so many percent of what was seen."""
    total = float(seen.counts.sum())
    if total == 0:
        return 1.0
    reached = torch.cumsum(seen.counts, 0) >= total * percentile / 100.0
    return max(seen.top * (int(torch.nonzero(reached)[0]) + 1) / _BINS / 127.0, 1e-8)


def least_error_scale(seen: Histogram) -> float:
    """The scale with the least mean squared error: it weighs the few values that are clipped
    against the finer steps that all others get."""
    largest = minmax_scale(seen)
    if float(seen.counts.sum()) == 0:
        return largest
    centres = (torch.arange(_BINS, dtype=torch.float64) + 0.5) * seen.top / _BINS
    best, least = largest, math.inf
    for step in range(_CANDIDATES):
        scale = largest * (1 - (1 - _SMALLEST_SHARE) * step / _CANDIDATES)
        error = centres - torch.round(centres / scale).clamp(max=127) * scale
        cost = float((error * error * seen.counts).sum())
        if cost < least:
            best, least = scale, cost
    return best
