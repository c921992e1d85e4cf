"""The stages that `dvc.yaml` calls, wired: each reads params.yaml and the folders before it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from flywheel.compression.config import CompressionSettings
from flywheel.contracts.artefacts import Address
from flywheel.contracts.labels import AUTOMATIC
from flywheel.contracts.model_folder import Prompt, read_description
from flywheel.datasets.config import DatasetSettings
from flywheel.errors import ArtefactError
from flywheel.evaluation.config import GateSettings
from flywheel.kinds import of as kind_of
from flywheel.monitoring.logs import configure_logging
from flywheel.settings import FlywheelSettings
from flywheel.training.config import LoraSettings, TrainingSettings
from flywheel.turn.params import task_params
from flywheel.turn.watchdog import follow_trainer

SHUFFLE_SEED = 20
# Serving answers people; training can wait its turn for a processor.
NICENESS = 10

_log = structlog.get_logger(__name__)


def run_stage(settings: FlywheelSettings, stage: str, task: str) -> None:
    """Run one stage in this process. Raises what the stage raises."""
    configure_logging(f"stage-{stage}", settings.log_level)
    follow_trainer()
    os.nice(NICENESS)
    params = task_params(settings.workspace, task)
    stages: dict[str, Callable[[FlywheelSettings, str, dict[str, Any]], None]] = {
        "build": _build,
        "train": _train,
        "compress": _compress,
        "evaluate": _evaluate,
    }
    stages[stage](settings, task, params)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _build(settings: FlywheelSettings, task: str, params: dict[str, Any]) -> None:
    from flywheel.datasets.build import automatic_weights, build_dataset
    from storage.features.rates import correction_rates
    from storage.objects import open_artefacts
    from storage.workspace import open_database

    values = dict(params["dataset"])
    shuffled, retired = values.pop("shuffle_labels", False), values.pop("retired_labels", ())
    dataset = DatasetSettings(**values)
    with open_database(settings) as database:
        # Asking for it may make it; the rest only reads, and holds nobody up.
        with database.transaction() as tx:
            salt = tx.draws.dataset(task)
        with database.transaction(read_only=True) as tx:
            samples = tx.labels.settled(task, params["watermark"])
            automatic = [s for s in samples if dataset.source_weights and s.source in AUTOMATIC]
            senders = tx.overview.senders(task, [s.sample_id for s in automatic])
    moments = {(sent, s.settled_at) for s in automatic for sent in senders.get(s.sample_id, ())}
    if moments and not settings.layout.features.exists():
        # The worker writes it, into its own workspace.
        _log.warning("no feature history lies here: automatic labels weigh alike", task=task)
    rates = correction_rates(settings.layout.features, task, moments)
    artefacts = open_artefacts(settings)
    manifest = build_dataset(
        samples,
        dataset,
        kind_of(params["kind"]).answers(params["labels"]),
        task=task,
        watermark=params["watermark"],
        parent=params["parent_dataset"],
        folder=_empty(settings.layout.dataset(task)),
        shuffle_labels_seed=SHUFFLE_SEED if shuffled else None,
        retired=retired,
        weights=automatic_weights(automatic, senders, rates),
        salt=salt,
        image_bytes=lambda image: artefacts.read(Address("file", image.sha256)),
    )
    _log.info("dataset built", task=task, version=manifest.version)


def _train(settings: FlywheelSettings, task: str, params: dict[str, Any]) -> None:
    layout, training = settings.layout, TrainingSettings(**params["training"])
    dataset, folder = layout.dataset(task), _empty(layout.trained(task))
    if params["model"] == "llm":
        _train_llm(settings, task, params, dataset, folder)
        return
    from flywheel.training.train import train

    train(dataset, training, params["labels"], folder)


def _train_llm(
    settings: FlywheelSettings, task: str, params: dict[str, Any], dataset: Path, folder: Path
) -> None:
    from flywheel.training.llm.train import train_llm
    from flywheel.turn.artefacts import open_release_folders
    from storage.workspace import open_database

    def run(parent: Path | None) -> None:
        train_llm(
            dataset,
            TrainingSettings(**params["training"]),
            LoraSettings(**params["lora"]),
            msgspec.convert(params["prompt"], Prompt),
            params["labels"],
            kind_of(params["kind"]).output,
            folder,
            bases=settings.layout.bases,
            parent=parent,
            checkpoint=settings.layout.checkpoints(task),
        )

    if params["start_from"] is None:
        return run(None)
    try:
        with open_database(settings) as database:
            held = open_release_folders(settings, database).hold(params["start_from"])
        with held as parent:
            if read_description(parent).prompt != msgspec.convert(params["prompt"], Prompt):
                raise ArtefactError(f"{parent.name} was asked in another way")
            return run(parent)
    except ArtefactError as error:
        _log.warning("training starts from nothing", task=task, reason=str(error))
    return run(None)


def _compress(settings: FlywheelSettings, task: str, params: dict[str, Any]) -> None:
    from flywheel.turn.compress import compare_variants, install
    from flywheel.turn.variants import VariantSetup

    layout = settings.layout
    setup = VariantSetup(
        trained=layout.trained(task),
        dataset=layout.dataset(task),
        settings=CompressionSettings(**params["compression"]),
        training=TrainingSettings(**params["training"]),
        engine=params["engine"],
        scratch=layout.variants(task),
        bases=settings.layout.bases,
        threads=settings.serving.threads,
        workspace=settings.workspace,
        accelerator=_accelerated(settings, params["engine"]),
    )
    comparison = compare_variants(setup, _empty(layout.comparison(task)))
    install(setup, comparison.chosen, layout.compressed(task))


def _accelerated(settings: FlywheelSettings, engine: str) -> bool:
    if engine != "vllm" or settings.serving.vllm.urls:
        return False
    from flywheel.serving.vllm.machine import find_installation

    return find_installation(settings.serving.vllm, os.environ).gpu


def _evaluate(settings: FlywheelSettings, task: str, params: dict[str, Any]) -> None:
    from flywheel.turn.compress import evaluate_chosen

    layout = settings.layout
    gate = GateSettings(**params["gate"])
    evaluate_chosen(
        layout.comparison(task),
        kind_of(params["kind"]).answers(params["labels"]),
        _empty(layout.evaluation(task)),
        confidence=gate.confidence,
    )
