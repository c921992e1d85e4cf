"""The variants of one model: what they are made of, and the making, which an end in between does
not lose."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from flywheel.compression.compare import REFERENCE, Speed
from flywheel.compression.config import CompressionSettings
from flywheel.compression.variants import Tools, VariantReport
from flywheel.contracts.dataset_folder import DatasetLine, read_manifest, read_part
from flywheel.contracts.model_folder import (
    ModelDescription,
    read_description,
    write_description,
    write_json,
)
from flywheel.errors import ArtefactError, ConfigurationError, FlywheelError, PipelineError
from flywheel.kinds import Answers, answers_of
from flywheel.kinds.predictions import probabilities
from flywheel.training.config import TrainingSettings
from flywheel.turn.measure import Answer, ServedFolder

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class VariantSetup:
    """What is compared, and with what. ``scratch`` takes a folder per variant; ``threads`` are the
    model server's; ``accelerator`` says whether its engine computes on one."""

    trained: Path
    dataset: Path
    settings: CompressionSettings
    training: TrainingSettings
    engine: Literal["embedded", "vllm"]
    scratch: Path
    bases: Path
    threads: int = 1
    workspace: Path | None = None
    accelerator: bool = False

    @cached_property
    def model(self) -> ModelDescription:
        """The trained model."""
        return read_description(self.trained)

    @cached_property
    def calibration(self) -> list[DatasetLine]:
        """Temperatures are fitted on these; free text has none."""
        return read_part(self.dataset, "calibration") if self.answers.scored else []

    @cached_property
    def holdout(self) -> list[DatasetLine]:
        """What variants are compared on."""
        lines = read_part(self.dataset, "holdout")
        if not lines:
            raise PipelineError(
                "holdout.jsonl is empty: ingest some labelled samples with --split holdout, or set "
                "dataset.holdout_share"
            )
        return lines

    @property
    def answers(self) -> Answers:
        """What the model answers with."""
        return answers_of(self.model.output, self.model.labels)

    @property
    def texts(self) -> list[str]:
        """The calibration split's, then the holdout's."""
        return [line.text for line in (*self.calibration, *self.holdout)]

    def in_process(self, name: str) -> bool:
        """Whether a variant's answers are computed here: the embedded engine's, and the reference's
        where a start of vLLM would tell nothing that is asked for."""
        if self.model.kind == "llm":
            return False
        return self.engine == "embedded" or (name == REFERENCE and not self.served(name))

    def served(self, name: str) -> bool:
        """Whether a variant is started as a server: for its speed, or for its answers. With vLLM
        that takes half a minute, so an encoder's reference must be among the variants for it."""
        if self.model.kind == "llm":
            return True
        if self.engine == "embedded":
            return self.timed(name)
        return name != REFERENCE or name in self.settings.variants

    def timed(self, name: str) -> bool:
        """Whether a variant's speed is measured; with vLLM the reference's only when it is among
        the variants, as above."""
        named = self.engine == "embedded" or name != REFERENCE or name in self.settings.variants
        return named and self.settings.measure_seconds > 0


class _Marker(msgspec.Struct, frozen=True):
    """Beside a variant that was made: what it was made of, and its report."""

    of: str
    report: VariantReport


@dataclass
class Trial:
    """One variant on its way through the stage."""

    name: str
    folder: Path
    report: VariantReport | None = None
    answers: list[Answer] = field(default_factory=list)
    temperature: float = 1.0
    speed: Speed | None = None
    failure: str = ""


def make_variants(setup: VariantSetup, names: Sequence[str]) -> list[Trial]:
    """Make each, or keep what an earlier run that was ended made of the same model."""
    return [_make(setup, name) for name in dict.fromkeys(names)]


def _make(setup: VariantSetup, name: str) -> Trial:
    trial = Trial(name, setup.scratch / name)
    marker = setup.scratch / f"{name}.json"
    try:
        made = msgspec.json.decode(marker.read_bytes(), type=_Marker)
        if made.of == _origin(setup, name):
            description = read_description(trial.folder)
            # It may have been calibrated already; the answers to come are to be those without.
            write_description(trial.folder, msgspec.structs.replace(description, temperature=1.0))
            trial.report = made.report
            return trial
    except (OSError, msgspec.MsgspecError, ArtefactError):
        pass
    marker.unlink(missing_ok=True)
    shutil.rmtree(trial.folder, ignore_errors=True)
    trial.folder.mkdir(parents=True)
    try:
        trial.report = _by_recipe(setup, name, trial.folder)
    except FlywheelError as error:
        fail(trial, error)
    else:
        write_json(marker, _Marker(of=_origin(setup, name), report=trial.report))
    return trial


def _by_recipe(setup: VariantSetup, name: str, folder: Path) -> VariantReport:
    recipe = setup.settings.recipe(name)
    if setup.model.kind == "llm":
        from flywheel.compression.llm import make_llm_variant

        return make_llm_variant(
            name, recipe, setup.trained, setup.dataset, folder, bases=setup.bases
        )
    from flywheel.compression.variants import make_variant

    return make_variant(
        name,
        recipe,
        setup.trained,
        setup.dataset,
        folder,
        tools=_tools(setup),
        teacher=_Teacher(setup, Path(recipe.teacher)) if recipe.teacher else None,
    )


class _Teacher:
    """A model that is served while it is asked: what a distilled student learns from."""

    def __init__(self, setup: VariantSetup, folder: Path) -> None:
        about = read_description(folder)
        if set(about.labels) != set(setup.model.labels):
            raise ConfigurationError(
                "compression.recipes",
                f"the teacher in {folder} gives {answers_of(about.output, about.labels).described}",
                f"a teacher needs the labels {', '.join(setup.model.labels)}",
            )
        self.labels = about.labels
        self._bench, self._folder = setup, folder
        self._engine = "vllm" if about.kind == "llm" else setup.engine

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Its probabilities for each text."""
        setup = self._bench
        server = ServedFolder(
            self._folder,
            engine=self._engine,
            labels=True,
            bases=setup.bases,
            workspace=setup.workspace,
            threads=setup.threads,
        )
        try:
            server.ready()
            return probabilities(server.answers(texts))
        finally:
            server.stop()


def _origin(setup: VariantSetup, name: str) -> str:
    """All that a variant is made of; a SHA-256."""
    teacher = setup.settings.recipe(name).teacher
    origin = (
        read_description(Path(teacher)).files if teacher else None,
        setup.model.files,
        read_manifest(setup.dataset, check=False).version,
        setup.settings.recipe(name).model_dump(mode="json"),
        setup.training.model_dump(mode="json"),
    )
    return hashlib.sha256(msgspec.json.encode(origin, order="sorted")).hexdigest()


def _tools(setup: VariantSetup) -> Tools:
    from flywheel.serving.runtime import load_classifier
    from flywheel.training.train import fine_tune, observe

    return Tools(
        load=load_classifier,
        fine_tune=partial(fine_tune, setup.training),
        observe=observe,
        threads=os.cpu_count() or 1,
    )


def fail(trial: Trial, error: FlywheelError) -> None:
    """Keep why a variant failed; the reference must not."""
    if trial.name == REFERENCE:
        raise error
    trial.failure = str(error)
    _log.warning("variant failed", variant=trial.name, reason=trial.failure)
