"""A training run in a process of its own, to be killed: DATASET BASE FOLDER BASES."""

import sys
from pathlib import Path

from tiny_llm import LABELS, PROMPT

from flywheel.training.config import LoraSettings, TrainingSettings

# Dropout draws random numbers at every step, and a checkpoint is written after each.
LORA = LoraSettings(
    rank=4,
    dropout=0.1,
    epochs=3,
    min_steps=30,
    learning_rate=5e-3,
    batch_tokens=400,
    max_tokens=256,
    precision="float32",
    checkpoint_seconds=0,
)


def run(dataset: Path, base: Path, folder: Path, bases: Path, lora: LoraSettings = LORA) -> int:
    """Train; returns the step that the run went on from."""
    from flywheel.training.llm.train import train_llm

    training = TrainingSettings(base_model=str(base), threads=1)
    report = train_llm(dataset, training, lora, PROMPT, LABELS, "label", folder, bases=bases)
    return report.resumed_at


if __name__ == "__main__":
    run(*map(Path, sys.argv[1:5]))
