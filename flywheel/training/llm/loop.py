"""The training loop: packed rows, FP32 master weights, a checkpoint every so often."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import structlog
import torch
from torch import Tensor
from torch.nn import functional as nnf

from flywheel.errors import PipelineError
from flywheel.training.llm.adapter import AdaptedModel
from flywheel.training.llm.checkpoint import Progress, read_checkpoint, write_checkpoint
from flywheel.training.llm.packing import Row, alone, pack, plan_steps, shared_prefix
from flywheel.training.llm.precision import GradientStatistics, LossScale, look_at
from flywheel.training.llm.samples import Sample

LOG_FILE = "training.jsonl"
_LARGEST_NORM = 1.0
log = structlog.get_logger(__name__)


def cosine(step: int, total: int, warmup_share: float) -> float:
    """The factor on the learning rate: linear up, then half a cosine down to nearly zero."""
    warmup = max(1, int(total * warmup_share)) if warmup_share else 0
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and in which order. ``row_tokens`` are those of one optimiser step."""

    epochs: int
    min_steps: int
    row_tokens: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    seed: int
    checkpoint_seconds: float


class Run:
    """One training run; ``work`` keeps its checkpoint and log until it is done.

    With ``choices``, tokens of which each answer is one, the loss is over these alone: serving lets
    the model choose among no others, so nothing is spent on learning to leave others out.
    """

    def __init__(
        self,
        model: AdaptedModel,
        samples: Sequence[Sample],
        schedule: Schedule,
        work: Path,
        *,
        made: str,
        scale: LossScale,
        choices: Sequence[int] = (),
    ) -> None:
        self.model, self.samples, self.schedule, self.work = model, samples, schedule, work
        self.shared = shared_prefix(samples) if model.packs else 0
        self.plan = plan_steps(
            [len(sample) for sample in samples],
            self.shared,
            schedule.row_tokens,
            schedule.epochs,
            schedule.min_steps,
            schedule.seed,
        )
        self.rows = [(epoch, row) for epoch, rows in enumerate(self.plan) for row in rows]
        self.tokens = sum(map(len, samples)) - self.shared * (len(samples) - len(self.plan[0]))
        self.scale = scale
        self.choices = torch.tensor(choices, dtype=torch.int64, device=model.device)
        self.optimiser = torch.optim.AdamW(
            model.trained.values(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.progress = Progress(
            made=made,
            lost=[0.0] * len(self.plan),
            right=[0] * len(self.plan),
            asked=[0] * len(self.plan),
        )

    def restore(self) -> int:
        """Go on from the checkpoint in ``work``, when it is of this run. Returns the steps done."""
        checkpoint = read_checkpoint(self.work, self.progress.made, self._trained(), self.optimiser)
        if checkpoint is None:
            shutil.rmtree(self.work, ignore_errors=True)
        else:
            self.progress = checkpoint
            self.scale = replace(self.scale, scale=checkpoint.scale, good=checkpoint.good)
        self.work.mkdir(parents=True, exist_ok=True)
        self._cut_log()
        return self.progress.step

    def train(self) -> None:
        """Make the steps that are left. Raises PipelineError when training diverges."""
        progress, total = self.progress, len(self.rows)
        began, saved = time.perf_counter() - progress.seconds, time.perf_counter()
        with (self.work / LOG_FILE).open("ab") as stream:
            while progress.step < total:
                epoch, chosen = self.rows[progress.step]
                metrics = self._step(epoch, self._rows_of(chosen))
                progress.step += 1
                progress.seconds = time.perf_counter() - began
                metrics = {
                    "step": progress.step,
                    "epoch": epoch + 1,
                    "samples": len(chosen),
                    **metrics,
                }
                stream.write(msgspec.json.encode(metrics) + b"\n")
                stream.flush()
                ends = progress.step == total or self.rows[progress.step][0] != epoch
                if ends:
                    self._tell(epoch)
                if ends or time.perf_counter() - saved >= self.schedule.checkpoint_seconds:
                    progress.keep_scale(self.scale)
                    write_checkpoint(self.work, progress, self._trained(), self.optimiser)
                    saved = time.perf_counter()

    def _step(self, epoch: int, rows: Sequence[Row]) -> dict[str, Any]:
        progress, model, scale = self.progress, self.model, self.scale.scale
        rate = self.schedule.learning_rate * cosine(
            progress.step, len(self.rows), self.schedule.warmup_share
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        asked = sum(len(row.targets) for row in rows)
        value, right = 0.0, 0
        for row in rows:
            logits, targets = self._among_choices(model.logits(row), row.targets.to(model.device))
            weights = row.weights.to(model.device)
            each = nnf.cross_entropy(logits, targets, reduction="none")
            loss = (each * weights).sum() / asked
            value += float(loss.detach())
            right += int((logits.argmax(dim=-1) == targets).sum())
            if not math.isfinite(value):
                raise self._diverged(f"the loss became {value}")
            (loss * scale).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in model.trained.values() if p.grad is not None]
        seen = look_at(gradients, scale)
        self.scale = self.scale.after(seen)
        skipped = seen.infinite > 0
        if skipped:
            self._skip(seen)
        else:
            factor = min(1.0, _LARGEST_NORM / max(seen.norm, 1e-12)) / scale
            for gradient in gradients:
                gradient.mul_(factor)
            self.optimiser.step()
        progress.lost[epoch] += value * asked
        progress.right[epoch] += right
        progress.asked[epoch] += asked
        return {
            "loss": round(value, 6),
            "learning_rate": rate,
            "tokens": sum(int(row.ids.numel()) for row in rows),
            "scale": scale,
            "skipped": skipped,
            "gradient_norm": seen.norm,
            "gradient_largest": seen.largest,
            "gradient_zero": seen.zero,
            "gradient_infinite": seen.infinite,
        }

    def _rows_of(self, chosen: Sequence[int]) -> list[Row]:
        """What one step reads: a packed row, or each sample by itself."""
        samples = [self.samples[index] for index in chosen]
        if self.model.packs:
            return [pack(samples, self.shared)]
        return [alone(sample) for sample in samples]

    def _among_choices(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if not len(self.choices):
            return logits, targets
        return logits[:, self.choices], (targets[:, None] == self.choices).int().argmax(dim=1)

    def _skip(self, seen: GradientStatistics) -> None:
        self.progress.skipped += 1
        if not self.scale.dynamic or self.scale.exhausted:
            raise self._diverged(f"{seen.infinite:.1%} of the gradients became no numbers")

    def _diverged(self, what: str) -> PipelineError:
        return PipelineError(
            f"training diverged at step {self.progress.step + 1} of {len(self.rows)}: {what}; "
            f"lower lora.learning_rate (now {self.schedule.learning_rate:g}) or use "
            'lora.precision = "float32"'
        )

    def _tell(self, epoch: int) -> None:
        progress = self.progress
        log.info(
            "epoch",
            epoch=epoch + 1,
            epochs=len(self.plan),
            loss=round(self.losses[epoch], 4),
            accuracy=round(self.accuracies[epoch], 4),
            seconds=round(progress.seconds, 2),
        )

    @property
    def losses(self) -> tuple[float, ...]:
        """Mean over the answers' tokens, by epoch."""
        pairs = zip(self.progress.lost, self.progress.asked, strict=True)
        return tuple(lost / max(1, asked) for lost, asked in pairs)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Share of the answers' tokens that were the likeliest, by epoch, while it trained."""
        pairs = zip(self.progress.right, self.progress.asked, strict=True)
        return tuple(right / max(1, asked) for right, asked in pairs)

    def _trained(self) -> dict[str, Tensor]:
        return dict(self.model.trained)

    def _cut_log(self) -> None:
        path = self.work / LOG_FILE
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        path.write_bytes(b"".join(lines[: self.progress.step]))
