"""Samples packed into rows without padding; what they all begin with stands in a row once.

A row is [what is shared][rest of sample 1][rest of sample 2]… Each rest sees what is shared and
itself, and its positions go on where the shared part ends, so every token has the states that it
would have alone: the loss and the gradients are those of the samples one by one. That holds for a
model whose tokens meet in attention alone and see all that the mask lets them: ``causal`` looks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flywheel.training.llm.samples import Sample


class Row(NamedTuple):
    """One row. ``ids`` and ``positions`` (1, tokens), ``mask`` (1, 1, tokens, tokens) true where a
    row's token sees a column's, both None for one sample as the model itself takes it; ``asked``
    are the tokens whose successor is an answer's, ``targets`` those successors and ``weights`` what
    their losses are multiplied by."""

    ids: Tensor
    positions: Tensor | None
    mask: Tensor | None
    asked: Tensor
    targets: Tensor
    weights: Tensor


def shared_prefix(samples: Sequence[Sample]) -> int:
    """How many tokens all prompts begin with. Each keeps a token at least of its own."""
    first = min(sample.prompt for sample in samples)
    last = max(sample.prompt for sample in samples)
    limit = min(len(sample.prompt) for sample in samples) - 1
    count = 0
    while count < limit and first[count] == last[count]:
        count += 1
    return count


def plan_rows(
    lengths: Sequence[int], shared: int, row_tokens: int, chance: random.Random
) -> list[list[int]]:
    """Every index once, in rows of at most ``row_tokens`` tokens that are about equally full.

    ``lengths`` count the shared tokens too. A sample that is longer than a row has one to itself.
    """
    order = list(range(len(lengths)))
    chance.shuffle(order)
    room = max(1, row_tokens - shared)
    own = [length - shared for length in lengths]
    fair = sum(own) / math.ceil(sum(own) / room)
    rows: list[list[int]] = []
    used, total = math.inf, 0
    for index in order:
        if used + own[index] > room or total >= fair * len(rows):
            rows.append([])
            used = 0
        rows[-1].append(index)
        used += own[index]
        total += own[index]
    return rows


def plan_steps(
    lengths: Sequence[int], shared: int, row_tokens: int, epochs: int, min_steps: int, seed: int
) -> list[list[list[int]]]:
    """The rows of every epoch: ``epochs`` of them, and more until ``min_steps`` rows are made.

    The seed alone decides, so a training run that is resumed finds its place by the step's number.
    """
    chance = random.Random(seed)
    plan: list[list[list[int]]] = []
    steps = 0
    while len(plan) < epochs or steps < min_steps:
        plan.append(plan_rows(lengths, shared, row_tokens, chance))
        steps += len(plan[-1])
    return plan


def pack(samples: Sequence[Sample], shared: int) -> Row:
    """One row of some samples, whose prompts begin with the same ``shared`` tokens."""
    ids = list(samples[0].prompt[:shared])
    owner = [0] * shared
    positions = list(range(shared))
    asked: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    for number, sample in enumerate(samples, start=1):
        rest = [*sample.prompt[shared:], *sample.answer[:-1]]
        answered = len(ids) + len(sample.prompt) - shared - 1
        asked += range(answered, answered + len(sample.answer))
        targets += sample.answer
        weights += [sample.weight] * len(sample.answer)
        ids += rest
        owner += [number] * len(rest)
        positions += range(shared, shared + len(rest))
    segments = torch.tensor(owner)
    sees = (segments[:, None] == segments[None, :]) | (segments == 0)[None, :]
    return Row(
        ids=torch.tensor([ids]),
        positions=torch.tensor([positions]),
        mask=sees.tril()[None, None],
        asked=torch.tensor(asked),
        targets=torch.tensor(targets),
        weights=torch.tensor(weights),
    )


def alone(sample: Sample) -> Row:
    """One sample as the model itself takes a text."""
    return pack([sample], 0)._replace(positions=None, mask=None)
