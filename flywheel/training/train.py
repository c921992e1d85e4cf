"""Fine-tunes a sentence encoder with a classification head on a dataset version."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from flywheel.contracts.dataset_folder import DatasetLine, read_manifest, read_part
from flywheel.contracts.model_folder import (
    TRAINING_REPORT,
    ModelDescription,
    digest_model_files,
    write_description,
    write_json,
)
from flywheel.errors import ConfigurationError, PipelineError
from flywheel.training.batches import length_buckets, plan_epochs, schedule
from flywheel.training.config import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from flywheel.training.encoder import EncoderClassifier

LOG_FILE = "training.jsonl"
_AUTOMATIC = frozenset({"auto", "rule", "model"})
log = structlog.get_logger(__name__)


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a training run went. ``losses`` and ``accuracies`` (on what it trained on) by epoch."""

    task: str
    dataset_version: str
    base_model: str
    pooling: str
    samples: int
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
    from flywheel.training.encoder import continue_from, load_base, save_model

    started = time.perf_counter()
    manifest = read_manifest(dataset)
    lines = read_part(dataset, "train")
    targets = _targets(lines, labels)
    _fix_seeds(settings)
    base = Path(settings.base_model)
    model, tokenizer, base_name = load_base(base, len(labels), settings.max_tokens)
    if parent is not None:
        continue_from(model, parent, labels)
    run = _Run(model, tokenizer, lines, targets, settings)
    if parent is None:
        run.start_head()
    losses, accuracies = run.epochs(folder)
    save_model(model, tokenizer, base, labels, folder)
    write_description(
        folder,
        ModelDescription(
            task=manifest.task,
            labels=tuple(labels),
            temperature=1.0,
            max_tokens=settings.max_tokens,
            method="none",
            pooling=model.pooling,
            base_model=base_name,
            dataset_version=manifest.version,
            files=digest_model_files(folder),
        ),
    )
    seconds = time.perf_counter() - started
    report = TrainingReport(
        task=manifest.task,
        dataset_version=manifest.version,
        base_model=base_name,
        pooling=model.pooling,
        samples=len(lines),
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


class _Run:
    """The state of one training loop."""

    def __init__(
        self,
        model: EncoderClassifier,
        tokenizer: Any,
        lines: Sequence[DatasetLine],
        targets: Sequence[int],
        settings: TrainingSettings,
    ) -> None:
        import torch

        self.model, self.settings = model, settings
        encoded = tokenizer(
            [line.text for line in lines], truncation=True, max_length=settings.max_tokens
        )
        self.ids: list[list[int]] = encoded["input_ids"]
        self.pad = int(tokenizer.pad_token_id or 0)
        self.targets = torch.tensor(targets)
        self.weights = torch.tensor([_weight(line, settings) for line in lines])
        count, self.steps = plan_epochs(
            len(lines), settings.batch_size, settings.epochs, settings.min_steps
        )
        self.count, self.total_steps, self.loop_seconds = count, count * self.steps, 0.0

    def batch(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Padded ids and mask of some samples."""
        import torch

        longest = max(len(self.ids[index]) for index in chosen)
        ids = torch.full((len(chosen), longest), self.pad)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(chosen):
            ids[row, : len(self.ids[index])] = torch.tensor(self.ids[index])
            mask[row, : len(self.ids[index])] = 1
        return ids, mask

    def start_head(self) -> None:
        """Initialise the head from the frozen encoder's features of at most 2,000 samples."""
        import torch

        from flywheel.training.encoder import head_from_centroids

        chosen = sorted(range(len(self.ids))[:2000], key=lambda index: len(self.ids[index]))
        self.model.eval()
        with torch.inference_mode():
            features = torch.cat(
                [
                    self.model.features(*self.batch(chosen[at : at + 32]))
                    for at in range(0, len(chosen), 32)
                ]
            )
        head_from_centroids(self.model, features.clone(), self.targets[chosen])

    def epochs(self, folder: Path) -> tuple[list[float], list[float]]:
        """Run the loop; one JSON line an epoch. Returns mean loss and accuracy of each."""
        import torch

        settings, model = self.settings, self.model
        for parameter in model.token_parameters():
            parameter.requires_grad = settings.train_embeddings
        head = list(model.classifier.parameters())
        body = [p for p in model.bert.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            [
                {"params": body, "lr": settings.learning_rate},
                {
                    "params": head,
                    "lr": settings.learning_rate * settings.head_learning_rate_factor,
                },
            ],
            weight_decay=settings.weight_decay,
        )
        decay = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: schedule(step, self.total_steps, settings.warmup_share)
        )
        chance = random.Random(settings.seed)
        losses: list[float] = []
        accuracies: list[float] = []
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with (folder / LOG_FILE).open("wb") as stream:
            for epoch in range(self.count):
                loss, accuracy = self._epoch(optimiser, decay, chance, [*body, *head])
                losses.append(loss)
                accuracies.append(accuracy)
                row = {
                    "epoch": epoch + 1,
                    "epochs": self.count,
                    "loss": loss,
                    "accuracy": accuracy,
                    "seconds": round(time.perf_counter() - began, 2),
                }
                stream.write(msgspec.json.encode(row) + b"\n")
                stream.flush()
                log.info("epoch", **row)
        self.loop_seconds = time.perf_counter() - began
        return losses, accuracies

    def _epoch(
        self, optimiser: Any, decay: Any, chance: random.Random, parameters: list[Any]
    ) -> tuple[float, float]:
        import torch

        settings, model = self.settings, self.model
        model.train()
        lost, right = 0.0, 0
        for chosen in length_buckets([len(ids) for ids in self.ids], settings.batch_size, chance):
            ids, mask = self.batch(chosen)
            wanted = self.targets[chosen]
            with torch.autocast(
                "cpu", dtype=torch.bfloat16, enabled=settings.precision == "bfloat16"
            ):
                logits = model(ids, mask)
            each = torch.nn.functional.cross_entropy(
                logits.float(), wanted, label_smoothing=settings.label_smoothing, reduction="none"
            )
            loss = (each * self.weights[chosen]).mean()
            value = float(loss.detach())
            if not torch.isfinite(loss):
                raise PipelineError(
                    f"training diverged: the loss became {value}; lower training.learning_rate "
                    f"(now {settings.learning_rate:g}) or use float32"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            decay.step()
            lost += value * len(chosen)
            right += int((logits.argmax(dim=-1) == wanted).sum())
        return lost / len(self.ids), right / len(self.ids)


def _weight(line: DatasetLine, settings: TrainingSettings) -> float:
    return line.weight * (settings.auto_label_weight if line.source in _AUTOMATIC else 1.0)


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
