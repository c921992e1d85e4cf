"""The range of activations: one scale for all that ever enters a layer.

A few tokens, such as [SEP], carry values many times all others, and what is lost by clipping them
differs from layer to layer. Measured on MiniLM (404 and 54 labels of TREC, 1,000 held out), mean
change of a probability against FP32: clipping nothing 0.0075 and 0.0164, least squared error
0.0071 and 0.0144, least absolute error 0.0202, the 99.9th percentile 0.0183 and 0.0407, the
99.99th 0.0053 and 0.0114: that one is taken. A scale for each token as it comes: 0.0020, 0.0048.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

PERCENTILE = 99.99
_BINS = 2048


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


def percentile_scale(seen: Histogram, percentile: float = PERCENTILE) -> float:
    """The scale that clips all but so many percent of what was seen: 127 steps up to there."""
    total = float(seen.counts.sum())
    if total == 0:
        return 1.0
    reached = torch.cumsum(seen.counts, 0) >= total * percentile / 100.0
    return max(seen.top * (int(torch.nonzero(reached)[0]) + 1) / _BINS / 127.0, 1e-8)
