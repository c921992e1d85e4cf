"""The stages that `dvc.yaml` calls, wired: each reads params.yaml and the folders before it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from flywheel.bootstrap.params import task_params
from flywheel.bootstrap.watchdog import follow_trainer
from flywheel.compression.config import CompressionSettings
from flywheel.contracts.model_folder import Prompt, read_description
from flywheel.datasets.config import DatasetSettings
from flywheel.errors import ArtefactError
from flywheel.evaluation.config import GateSettings
from flywheel.monitoring.logs import configure_logging
from flywheel.registry.release_folder import release_folder
from flywheel.settings import FlywheelSettings
from flywheel.training.config import LoraSettings, TrainingSettings

SHUFFLE_SEED = 20
# Serving answers people; training can wait its turn for a processor.
NICENESS = 10
# The join holds every row of a source's history once per moment: fewer moments, less memory.
MOMENTS_AT_ONCE = 200

_log = structlog.get_logger(__name__)


def dataset_folder(workspace: Path, task: str) -> Path:
    """Where the built dataset lies: the output of build@TASK."""
    return workspace / "data" / task


def trained_folder(workspace: Path, task: str) -> Path:
    """The FP32 model: the output of train@TASK."""
    return workspace / "models" / task / "trained"


def compressed_folder(workspace: Path, task: str) -> Path:
    """What would be served: the output of compress@TASK."""
    return workspace / "models" / task / "compressed"


def comparison_folder(workspace: Path, task: str) -> Path:
    """Every variant beside the others, and what each answered: an output of compress@TASK."""
    return workspace / "models" / task / "comparison"


def evaluation_folder(workspace: Path, task: str) -> Path:
    """metrics.json and predictions.jsonl: the outputs of evaluate@TASK."""
    return workspace / "evaluation" / task


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
    from flywheel.bootstrap.process import open_database
    from flywheel.datasets.build import AUTOMATIC, automatic_weights, build_dataset

    told = dict(params["dataset"])
    shuffled, retired = told.pop("shuffle_labels", False), told.pop("retired_labels", ())
    dataset = DatasetSettings(**told)
    with open_database(settings) as database:
        # Asking for it may make it; the rest only reads, and holds nobody up.
        with database.transaction() as tx:
            salt = tx.draws.dataset(task)
        with database.transaction(read_only=True) as tx:
            samples = tx.labels.settled(task, params["watermark"])
            automatic = [s for s in samples if dataset.source_weights and s.source in AUTOMATIC]
            senders = tx.overview.senders(task, [s.sample_id for s in automatic])
    moments = {(sent, s.settled_at) for s in automatic for sent in senders.get(s.sample_id, ())}
    manifest = build_dataset(
        samples,
        dataset,
        params["labels"],
        task=task,
        watermark=params["watermark"],
        parent=params["parent_dataset"],
        folder=_empty(dataset_folder(settings.workspace, task)),
        shuffle_labels_seed=SHUFFLE_SEED if shuffled else None,
        retired=retired,
        weights=automatic_weights(automatic, senders, _correction_rates(settings, task, moments)),
        salt=salt,
    )
    _log.info("dataset built", task=task, version=manifest.version)


def _correction_rates(
    settings: FlywheelSettings, task: str, moments: Iterable[tuple[str, datetime]]
) -> dict[tuple[str, datetime], float]:
    """How often a task's experts had corrected each source at each moment: a point-in-time join.

    The watermark does not bound it as it does the labels: a source's history is written seconds
    after what it tells. Rows are only added, and each holds nothing later than its moment, so a
    build that is repeated reads what the first one read; except that a row written in between,
    of a moment no later than a label's, then counts. DVC repeats no build that finished.
    """
    entities = sorted(moments)
    folder = settings.state / "features"
    if not entities or not folder.exists():
        return {}  # Feast takes seconds to import
    import pandas

    from storage.features import FeatureStore

    store = FeatureStore(folder)
    rates: dict[tuple[str, datetime], float] = {}
    for start in range(0, len(entities), MOMENTS_AT_ONCE):
        part = entities[start : start + MOMENTS_AT_ONCE]
        sources, times = zip(*part, strict=True)
        found = store.historical(
            task,
            pandas.DataFrame(
                {"source": sources, "event_timestamp": pandas.to_datetime(list(times), utc=True)}
            ),
        )
        known = zip(part, found["correction_rate"], strict=True)
        rates |= {moment: float(rate) for moment, rate in known if not pandas.isna(rate)}
    return rates


def _train(settings: FlywheelSettings, task: str, params: dict[str, Any]) -> None:
    workspace, training = settings.workspace, TrainingSettings(**params["training"])
    dataset, folder = dataset_folder(workspace, task), _empty(trained_folder(workspace, task))
    if params["model"] == "llm":
        _train_llm(settings, task, params, dataset, folder)
        return
    from flywheel.training.train import train

    train(dataset, training, params["labels"], folder)


def _train_llm(
    settings: FlywheelSettings, task: str, params: dict[str, Any], dataset: Path, folder: Path
) -> None:
    from flywheel.training.llm.train import train_llm

    def run(parent: Path | None) -> None:
        train_llm(
            dataset,
            TrainingSettings(**params["training"]),
            LoraSettings(**params["lora"]),
            msgspec.convert(params["prompt"], Prompt),
            params["labels"],
            "text" if params["kind"] == "generation" else "label",
            folder,
            bases=settings.state / "bases",
            parent=parent,
            checkpoint=settings.state / "checkpoints" / task,
        )

    if params["start_from"] is None:
        return run(None)
    parent = release_folder(settings.state, params["start_from"])
    try:
        told = read_description(parent)
        if told.prompt != msgspec.convert(params["prompt"], Prompt):
            raise ArtefactError(f"{parent.name} was asked in another way")
        return run(parent)
    except ArtefactError as error:
        _log.warning("training starts from nothing", task=task, reason=str(error))
    return run(None)


def _compress(settings: FlywheelSettings, task: str, params: dict[str, Any]) -> None:
    from flywheel.bootstrap.compress import compare_variants, install
    from flywheel.bootstrap.variants import Bench

    workspace = settings.workspace
    bench = Bench(
        trained=trained_folder(workspace, task),
        dataset=dataset_folder(workspace, task),
        settings=CompressionSettings(**params["compression"]),
        training=TrainingSettings(**params["training"]),
        engine=params["engine"],
        scratch=settings.state / "variants" / task,
        bases=settings.state / "bases",
        threads=settings.serving.threads,
        workspace=workspace,
        accelerator=_accelerated(settings, params["engine"]),
    )
    found = compare_variants(bench, _empty(comparison_folder(workspace, task)))
    install(bench, found.chosen, compressed_folder(workspace, task))


def _accelerated(settings: FlywheelSettings, engine: str) -> bool:
    if engine != "vllm" or settings.serving.vllm.urls:
        return False
    from flywheel.serving.vllm.machine import find_installation

    return find_installation(settings.serving.vllm, os.environ).gpu


def _evaluate(settings: FlywheelSettings, task: str, params: dict[str, Any]) -> None:
    from flywheel.bootstrap.compress import evaluate_chosen

    workspace = settings.workspace
    gate = GateSettings(**params["gate"])
    evaluate_chosen(
        comparison_folder(workspace, task),
        params["labels"],
        _empty(evaluation_folder(workspace, task)),
        confidence=gate.confidence,
    )
