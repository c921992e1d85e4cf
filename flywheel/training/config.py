"""What a task may say about training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flywheel.contracts.configuration import Settings


class TrainingSettings(Settings):
    """[tasks.NAME.training]: how a release is trained on the base model."""

    base_model: str = Field(
        description="Folder of a sentence-transformers encoder, or of a causal language model."
    )
    epochs: int = Field(4, ge=1, le=100, description="Passes over the training part.")
    min_steps: int = Field(
        60, ge=1, description="Epochs are added until so many optimiser steps are made."
    )
    batch_size: int = Field(16, ge=1, description="Samples of one optimiser step.")
    learning_rate: float = Field(1e-4, gt=0, description="Of the encoder, at its highest.")
    head_learning_rate_factor: float = Field(
        20.0, gt=0, description="The head learns so many times faster than the encoder."
    )
    warmup_share: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(0.01, ge=0, description="Of the optimiser (AdamW).")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over the other labels."
    )
    auto_label_weight: float = Field(0.5, ge=0, le=1, description="Loss weight of an auto-label.")
    train_embeddings: bool = Field(
        False, description="Also train the token embeddings: slower, rarely better."
    )
    max_tokens: int = Field(
        0,
        ge=0,
        description="Of a text that are read, the rest is cut; 0: as many as the base can. "
        "Twice the tokens take about twice the time; short texts cost the same.",
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 is one per core.")
    seed: int = Field(0, description="Of the order of samples and of dropout.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the products; weights and optimiser stay in FP32."
    )


# A language model is trained by [tasks.NAME.lora]: of the keys above, these say nothing to it.
ENCODER_ONLY = (
    "epochs",
    "min_steps",
    "batch_size",
    "learning_rate",
    "head_learning_rate_factor",
    "label_smoothing",
    "train_embeddings",
    "max_tokens",
    "precision",
)


class LoraSettings(Settings):
    """[tasks.NAME.lora]: fine-tuning of a language model; its training table has the rest."""

    rank: int = Field(
        8, ge=1, le=256, description="Of the adapter; served up to serving.vllm.max_rank."
    )
    alpha: float = Field(16.0, gt=0, description="The adapter's output is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of what the adapter reads, in training.")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="Names of the layers that get an adapter.",
    )
    epochs: int = Field(4, ge=1, le=100, description="Passes over the training part.")
    min_steps: int = Field(
        40, ge=1, description="Epochs are added until so many optimiser steps are made."
    )
    learning_rate: float = Field(2e-3, gt=0, description="Of the adapter, at its highest.")
    batch_tokens: int = Field(256, ge=64, description="Tokens of one optimiser step, packed.")
    max_tokens: int = Field(512, ge=32, description="Longest sample; longer ones are cut.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of the products; weights and optimiser stay in FP32. "
        "auto: bfloat16 where the processor multiplies it, else float32 (float16 on a GPU).",
    )
    warm_start: bool = Field(
        True, description="Go on from the champion's adapter, when it fits; else from nothing."
    )
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="How often a resumable checkpoint is written."
    )
