"""The training loop of an encoder: batches, losses, one line of log an epoch."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from flywheel.contracts.dataset_folder import DatasetLine
from flywheel.contracts.labels import AUTOMATIC
from flywheel.contracts.text_tokens import TextTokens
from flywheel.errors import PipelineError
from flywheel.training.batches import length_buckets, plan_epochs, schedule
from flywheel.training.config import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor

    from flywheel.training.encoder import EncoderClassifier

LOG_FILE = "training.jsonl"
# A teacher's probabilities are softened by this temperature, so that what it thinks of the labels
# it did not choose counts too (Hinton et al. 2015); they make up this share of the loss.
SOFT_TEMPERATURE = 2.0
SOFT_SHARE = 0.5
log = structlog.get_logger(__name__)


class TrainingLoop:
    """The state of one training loop. ``cut`` samples have more tokens than are read."""

    def __init__(
        self,
        model: EncoderClassifier,
        tokens: TextTokens,
        lines: Sequence[DatasetLine],
        targets: Sequence[int],
        settings: TrainingSettings,
    ) -> None:
        import torch

        self.model, self.settings = model, settings
        read = tokens([line.text for line in lines])
        self.ids = [made.ids for made in read]
        self.cut = sum(made.cut > 0 for made in read)
        if self.cut:
            log.warning("texts are cut", longer=self.cut, of=len(read), than_tokens=tokens.longest)
        self.targets = torch.tensor(targets)
        self.weights = torch.tensor([_weight(line, settings) for line in lines])
        count, self.steps = plan_epochs(
            len(lines), settings.batch_size, settings.epochs, settings.min_steps
        )
        self.count, self.total_steps, self.loop_seconds = count, count * self.steps, 0.0
        self.soft: Tensor | None = None

    def follow(self, probabilities: Sequence[Mapping[str, float]], labels: Sequence[str]) -> None:
        """Learn a teacher's probabilities too, one row for each line, beside the labels."""
        import torch

        rows = torch.tensor([[row[label] for label in labels] for row in probabilities])
        self.soft = torch.softmax(rows.clamp_min(1e-9).log() / SOFT_TEMPERATURE, dim=-1)

    def batch(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Padded ids and mask of some samples."""
        import torch

        longest = max(len(self.ids[index]) for index in chosen)
        ids = torch.zeros((len(chosen), longest), dtype=torch.long)
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
            if self.soft is not None:
                each = (1 - SOFT_SHARE) * each + SOFT_SHARE * _soft_loss(logits, self.soft[chosen])
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


def _soft_loss(logits: Tensor, soft: Tensor) -> Tensor:
    import torch

    logs = torch.log_softmax(logits.float() / SOFT_TEMPERATURE, dim=-1)
    # The square undoes what the temperature takes from the gradient.
    return -(soft * logs).sum(dim=-1) * SOFT_TEMPERATURE**2


def _weight(line: DatasetLine, settings: TrainingSettings) -> float:
    return line.weight * (settings.auto_label_weight if line.source in AUTOMATIC else 1.0)
