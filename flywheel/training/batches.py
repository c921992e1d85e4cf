"""Batches of similar length, so that little is padded, in an order that a seed fixes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

_BATCHES_A_BUCKET = 8


def plan_epochs(samples: int, batch_size: int, epochs: int, min_steps: int) -> tuple[int, int]:
    """(epochs, steps in each): at least ``epochs``, and more until ``min_steps`` are made."""
    steps = math.ceil(samples / batch_size)
    return max(epochs, math.ceil(min_steps / steps)), steps


def length_buckets(
    lengths: Sequence[int], batch_size: int, chance: random.Random
) -> list[list[int]]:
    """Every index once, in batches of ``batch_size`` or fewer.

    Shuffles all, sorts by length only within a few batches' worth, and shuffles the batches: each
    batch is of nearly one length, yet no epoch repeats another's batches.
    """
    order = list(range(len(lengths)))
    chance.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * _BATCHES_A_BUCKET):
        bucket = sorted(
            order[start : start + batch_size * _BATCHES_A_BUCKET], key=lengths.__getitem__
        )
        batches += [bucket[at : at + batch_size] for at in range(0, len(bucket), batch_size)]
    chance.shuffle(batches)
    return batches


def schedule(step: int, total: int, warmup_share: float) -> float:
    """The factor on the learning rate: linear up, then linear down to nearly zero."""
    warmup = max(1, int(total * warmup_share)) if warmup_share else 0
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))
