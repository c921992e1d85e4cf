"""How the states of a text's tokens become one vector, for training and for the embedded engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flywheel.contracts.model_folder import Pooling

if TYPE_CHECKING:
    from torch import Tensor


def pooled(states: Tensor, pooling: Pooling, mask: Tensor | None = None) -> Tensor:
    """(texts, tokens, width) → (texts, width), as sentence-transformers pools.

    ``mask`` (texts, tokens) is 1 for a token and 0 for the padding after it; None: nothing is
    padded. "cls" is the first token too: BERT's own pooler, a dense layer, goes on from there.
    """
    if pooling in ("cls", "first_token"):
        return states[:, 0]
    if mask is None:
        mask = states.new_ones(states.shape[:2])
    if pooling == "last_token":
        last = mask.sum(dim=1).long() - 1
        return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]
    kept = mask[..., None].to(states.dtype)
    if pooling == "max":
        return states.masked_fill(kept == 0, float("-inf")).amax(dim=1)
    if pooling == "weighted_mean":
        kept = kept.cumsum(dim=1) * kept
    count = kept.sum(dim=1)
    return (states * kept).sum(dim=1) / (count.sqrt() if pooling == "mean_sqrt_len" else count)


def unit_length(vectors: Tensor) -> Tensor:
    """Each row brought to length 1."""
    lengths: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths.clamp_min(1e-12)
