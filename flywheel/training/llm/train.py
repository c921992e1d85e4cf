"""Fine-tunes a causal language model with LoRA on a dataset version, in chat format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from flywheel.contracts.model_folder import Output, Prompt
from flywheel.training.config import LoraSettings, TrainingSettings


class LlmTrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a training run went. ``losses`` are the mean over the answers' tokens, by epoch;
    ``accuracies`` the share of them that were the likeliest token. ``tokens`` went through the
    model in one epoch; ``skipped`` steps had gradients that were no numbers (FP16 only)."""

    task: str
    dataset_version: str
    base_model: str
    base: str
    samples: int
    epochs: int
    steps: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: float
    samples_per_second: float
    tokens: int
    cut: int
    skipped: int
    precision: str
    resumed_at: int
    continued_from: str | None


def train_llm(
    dataset: Path,
    training: TrainingSettings,
    lora: LoraSettings,
    prompt: Prompt,
    labels: Sequence[str],
    output: Output,
    folder: Path,
    *,
    bases: Path,
    parent: Path | None = None,
    checkpoint: Path | None = None,
) -> LlmTrainingReport:
    """Train on ``train.jsonl`` of a dataset folder and write a LoRA adapter to ``folder``."""
    raise NotImplementedError
