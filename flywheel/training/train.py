"""Fine-tunes a sentence encoder with a classification head on a dataset version."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flywheel.contracts.dataset_folder import DatasetLine, Manifest, read_manifest, read_part
from flywheel.contracts.model_folder import (
    RELEASE_FILE,
    TOKENIZER_FILES,
    TRAINING_REPORT,
    ModelDescription,
    digest_model_files,
    read_description,
    write_description,
    write_json,
)
from flywheel.contracts.text_tokens import read_tokens
from flywheel.contracts.witness import WITNESS_FILE
from flywheel.errors import ConfigurationError, PipelineError
from flywheel.training.config import TrainingSettings
from flywheel.training.loop import TrainingLoop

if TYPE_CHECKING:
    from torch import Tensor

    from flywheel.training.encoder import EncoderClassifier

Change = Callable[[Any], Callable[[], None]]
"""Alters a module before it is trained; what it returns is called before it is saved."""


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a training run went. ``losses`` and ``accuracies`` (on what it trained on) by epoch;
    ``cut`` samples have more than ``max_tokens`` tokens, and lost the rest."""

    task: str
    dataset_version: str
    base_model: str
    pooling: str
    samples: int
    max_tokens: int
    cut: int
    epochs: int
    steps: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: float
    samples_per_second: float
    continued_from: str | None


def train(
    dataset: Path,
    settings: TrainingSettings,
    labels: Sequence[str],
    folder: Path,
    *,
    parent: Path | None = None,
) -> TrainingReport:
    """Train on ``train.jsonl`` of a dataset folder and write the FP32 model to ``folder``.

    The same dataset and settings give the same weights on the same machine and thread count.
    ``parent`` is an earlier FP32 model to continue from instead of the base model's own weights.
    Raises ArtefactError for a damaged dataset, ConfigurationError for a base model or label that
    does not fit, PipelineError when the loss stops being a number.
    """
    # Threads that spin while they wait cost several times the work itself on a busy machine, and
    # OpenMP reads this when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from flywheel.training.base_encoder import load_base, reading_limit
    from flywheel.training.encoder import continue_from, save_model

    started = time.perf_counter()
    manifest = read_manifest(dataset)
    lines = read_part(dataset, "train")
    targets = _targets(lines, labels)
    _fix_seeds(settings)
    base = Path(settings.base_model)
    longest = reading_limit(base, settings.max_tokens)
    model, base_name = load_base(base, len(labels), longest, folder)
    if parent is not None:
        continue_from(model, parent, labels)
    run = TrainingLoop(model, read_tokens(folder, longest), lines, targets, settings)
    if parent is None:
        run.start_head()
    losses, accuracies = run.epochs(folder)
    save_model(model, base, labels, folder)
    write_json(folder / WITNESS_FILE, model.witness(read_tokens(folder, longest), labels))
    _describe(folder, manifest, labels, model, longest, base_name)
    seconds = time.perf_counter() - started
    report = TrainingReport(
        task=manifest.task,
        dataset_version=manifest.version,
        base_model=base_name,
        pooling=model.pooling,
        samples=len(lines),
        max_tokens=longest,
        cut=run.cut,
        epochs=len(losses),
        steps=run.total_steps,
        losses=tuple(losses),
        accuracies=tuple(accuracies),
        seconds=seconds,
        samples_per_second=len(lines) * len(losses) / run.loop_seconds,
        continued_from=None if parent is None else parent.name,
    )
    write_json(folder / TRAINING_REPORT, report)
    return report


def fine_tune(
    settings: TrainingSettings,
    model: Path,
    dataset: Path,
    folder: Path,
    *,
    epochs: int,
    change: Change | None = None,
    soft_targets: Sequence[Mapping[str, float]] | None = None,
    learning_rate_factor: float = 1.0,
) -> None:
    """Train the FP32 model in ``model`` for ``epochs`` more and write the result to ``folder``.

    ``model`` may also be an encoder without a head, which then gets one. As in training, epochs
    are added until ``settings.min_steps`` are made. ``change`` alters the module meanwhile, for
    instance to compute as if it were quantised. ``soft_targets`` are a teacher's probabilities,
    one row for each line of the training part. The same input gives the same weights.
    Raises what ``train`` does.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from flywheel.training.base_encoder import load_base, reading_limit
    from flywheel.training.encoder import load_trained, save_model

    manifest = read_manifest(dataset)
    lines = read_part(dataset, "train")
    targets = _targets(lines, manifest.labels)
    quick = settings.model_copy(
        update={
            "epochs": max(1, epochs),
            "learning_rate": settings.learning_rate * learning_rate_factor,
        }
    )
    _fix_seeds(quick)
    fresh = not (model / RELEASE_FILE).is_file()
    if fresh:
        longest = reading_limit(model, settings.max_tokens)
        network, name = load_base(model, len(manifest.labels), longest, folder)
    else:
        longest = read_description(model).max_tokens
        network, name = load_trained(model, manifest.labels)
        _copy_tokenizer(model, folder)
    loop = TrainingLoop(network, read_tokens(folder, longest), lines, targets, quick)
    if fresh:
        loop.start_head()
    if soft_targets is not None:
        loop.follow(soft_targets, manifest.labels)
    undo = change(network) if change is not None else None
    loop.epochs(folder)
    if undo is not None:
        undo()
    save_model(network, model, manifest.labels, folder)
    _describe(folder, manifest, manifest.labels, network, longest, name)


def observe(model: Path, texts: Sequence[str], visit: Callable[[str, Tensor], None]) -> None:
    """Run the FP32 model in ``model`` on ``texts``; ``visit`` sees what enters each dense layer of
    its encoder: the layer's name, and (tokens, width) without padding."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from flywheel.training.encoder import load_trained

    network, _ = load_trained(model, None)
    network.eval()
    by_length: dict[int, list[list[int]]] = {}
    for made in read_tokens(model, read_description(model).max_tokens)(texts):
        by_length.setdefault(len(made.ids), []).append(made.ids)
    for name, layer in network.named_modules():
        if name.startswith("bert.encoder.") and isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(
                lambda _, given, name=name: visit(name, given[0].reshape(-1, given[0].shape[-1]))
            )
    with torch.inference_mode():
        for same in by_length.values():
            batch = torch.tensor(same)
            network(batch, torch.ones_like(batch))


def _copy_tokenizer(model: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)


def _describe(
    folder: Path,
    manifest: Manifest,
    labels: Sequence[str],
    model: EncoderClassifier,
    max_tokens: int,
    base_model: str,
) -> None:
    write_description(
        folder,
        ModelDescription(
            task=manifest.task,
            labels=tuple(labels),
            temperature=1.0,
            max_tokens=max_tokens,
            method="none",
            pooling=model.pooling,
            normalise=model.normalise,
            base_model=base_model,
            dataset_version=manifest.version,
            files=digest_model_files(folder),
        ),
    )


def _targets(lines: Sequence[DatasetLine], labels: Sequence[str]) -> list[int]:
    index = {label: at for at, label in enumerate(labels)}
    unknown = sorted({line.label for line in lines} - index.keys())
    if unknown:
        raise ConfigurationError("labels", f"the dataset has {unknown}, which are no labels")
    if len({line.label for line in lines}) < 2:
        raise PipelineError("the training part has samples of fewer than two labels: label more")
    return [index[line.label] for line in lines]


def _fix_seeds(settings: TrainingSettings) -> None:
    import torch

    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    torch.manual_seed(settings.seed)
