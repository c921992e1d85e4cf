"""Fine-tunes a causal language model with LoRA on a dataset version, in chat format."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from flywheel.contracts.base_folder import put_base
from flywheel.contracts.dataset_folder import Manifest, read_manifest, read_part
from flywheel.contracts.model_folder import (
    ADAPTER_FILE,
    TRAINING_REPORT,
    BaseReference,
    ModelDescription,
    Output,
    Prompt,
    digest,
    digest_model_files,
    read_base,
    write_description,
    write_json,
)
from flywheel.contracts.witness import WITNESS_FILE
from flywheel.errors import ArtefactError, ConfigurationError
from flywheel.kinds import answers_of
from flywheel.training.config import LoraSettings, TrainingSettings

if TYPE_CHECKING:
    from flywheel.training.llm.loop import Schedule
    from flywheel.training.llm.samples import Encoded

log = structlog.get_logger(__name__)


class LlmTrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a training run went. ``losses`` are the mean over the answers' tokens, by epoch, and
    ``accuracies`` the share of them that were the likeliest while it trained. ``tokens`` went
    through the model in the first epoch; ``cut`` samples were too long; ``skipped`` steps had
    gradients that were no numbers (FP16 only); ``resumed_at`` is the step of the checkpoint that
    the run went on from, 0 for none. Not ``packed``: the base reads one sample at a time."""

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
    packed: bool = True
    attention: str = "sdpa"


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
    """Train on ``train.jsonl`` of a dataset folder and write a LoRA adapter to ``folder``.

    ``training`` says the base model, warm-up, weight decay, weight of automatic labels, threads and
    seed; ``lora`` all else. The base is put under ``bases``. ``parent`` is an earlier adapter on
    the same base to continue from. A run that was killed goes on bit for bit from ``checkpoint``, a
    folder that is gone when all is done (``<folder>.checkpoint`` when not given).

    Raises ArtefactError for a damaged dataset or base, ConfigurationError for a base, label or
    setting that does not fit, PipelineError when training diverges.
    """
    # Threads that spin while they wait cost several times the work itself on a busy machine, and
    # OpenMP reads this when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from flywheel.training.llm.adapter import AdaptedModel
    from flywheel.training.llm.loop import LOG_FILE, Run
    from flywheel.training.llm.precision import LossScale, choose_precision

    started = time.perf_counter()
    lora = lora.model_copy(update={"precision": choose_precision(lora.precision)})
    order = _Order(training, lora, prompt, tuple(labels), output)
    manifest = read_manifest(dataset)
    base, base_name = _put_base(Path(training.base_model), bases)
    encoded = order.encode(dataset, bases / base.id)
    order.fix_seeds()
    model = AdaptedModel(bases / base.id, lora, encoded.samples)
    if parent is not None:
        model.continue_from(parent, base, bases)
    run = Run(
        model,
        encoded.samples,
        order.schedule,
        checkpoint or folder.with_name(f"{folder.name}.checkpoint"),
        made=order.fingerprint(manifest, base, parent),
        scale=LossScale.for_precision(lora.precision),
        choices=encoded.choices,
    )
    resumed_at = run.restore()
    if resumed_at:
        log.info("training goes on", step=resumed_at, steps=len(run.rows))
    run.train()
    model.save(folder, bases / base.id)
    shutil.copyfile(run.work / LOG_FILE, folder / LOG_FILE)
    described = order.description(folder, manifest, base, base_name, encoded.letters)
    if answers_of(described.output).scored:
        write_json(folder / WITNESS_FILE, model.witness(bases / base.id, described))
    write_description(folder, described)
    report = LlmTrainingReport(
        task=manifest.task,
        dataset_version=manifest.version,
        base_model=base_name,
        base=base.id,
        samples=len(run.samples),
        epochs=len(run.plan),
        steps=len(run.rows),
        losses=run.losses,
        accuracies=run.accuracies,
        seconds=time.perf_counter() - started,
        samples_per_second=len(run.samples) * len(run.plan) / max(run.progress.seconds, 1e-9),
        tokens=run.tokens,
        cut=encoded.cut,
        skipped=run.progress.skipped,
        precision=lora.precision,
        resumed_at=resumed_at,
        continued_from=None if parent is None else parent.name,
        packed=model.packs,
        attention=model.attention,
    )
    write_json(folder / TRAINING_REPORT, report)
    shutil.rmtree(run.work)
    return report


@dataclass(frozen=True)
class _Order:
    """What a run was asked for."""

    training: TrainingSettings
    lora: LoraSettings
    prompt: Prompt
    labels: tuple[str, ...]
    output: Output

    def fix_seeds(self) -> None:
        import torch

        torch.set_num_threads(self.training.threads or os.cpu_count() or 1)
        torch.manual_seed(self.training.seed)

    def encode(self, dataset: Path, base: Path) -> Encoded:
        from transformers import AutoTokenizer

        from flywheel.training.llm.samples import encode

        return encode(
            read_part(dataset, "train"),
            AutoTokenizer.from_pretrained(base, local_files_only=True),
            self.prompt,
            self.labels,
            self.output,
            max_tokens=self.lora.max_tokens,
            auto_label_weight=self.training.auto_label_weight,
        )

    @property
    def schedule(self) -> Schedule:
        from flywheel.training.llm.loop import Schedule

        return Schedule(
            epochs=self.lora.epochs,
            min_steps=self.lora.min_steps,
            row_tokens=self.lora.batch_tokens,
            learning_rate=self.lora.learning_rate,
            warmup_share=self.training.warmup_share,
            weight_decay=self.training.weight_decay,
            seed=self.training.seed,
            checkpoint_seconds=self.lora.checkpoint_seconds,
        )

    def fingerprint(self, manifest: Manifest, base: BaseReference, parent: Path | None) -> str:
        """A hash of all that decides how the run goes, so that no other run's checkpoint fits."""
        parts = (
            manifest.version,
            sorted(manifest.files.items()),
            base.id,
            self.training.model_dump(mode="json", exclude={"base_model"}),
            self.lora.model_dump(mode="json", exclude={"checkpoint_seconds"}),
            self.prompt,
            self.labels,
            self.output,
            None if parent is None else digest(parent / ADAPTER_FILE),
        )
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()

    def description(
        self,
        folder: Path,
        manifest: Manifest,
        base: BaseReference,
        base_name: str,
        letters: dict[str, int],
    ) -> ModelDescription:
        return ModelDescription(
            task=manifest.task,
            labels=self.labels,
            temperature=1.0,
            max_tokens=self.lora.max_tokens,
            method="none",
            pooling="mean",
            base_model=base_name,
            dataset_version=manifest.version,
            files=digest_model_files(folder),
            kind="llm",
            output=self.output,
            prompt=self.prompt,
            letters=letters,
            base=base,
        )


def _put_base(source: Path, bases: Path) -> tuple[BaseReference, str]:
    where = source.resolve()
    try:
        base = put_base(where, bases, name=where.name)
    except ArtefactError as error:
        raise ConfigurationError("training.base_model", str(error)) from error
    files = read_base(bases / base.id).files
    weights = next(name for name in sorted(files) if name.endswith(".safetensors"))
    return base, f"{where.parent.name}/{where.name}@{files[weights].sha256[:12]}"
