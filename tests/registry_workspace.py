"""Workspaces with a database, labels and releases of a tiny model, for tests of the registry."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from new_database import new_database
from tiny_encoder import TOPICS, labelled, make_encoder

from flywheel.compression.compare import Speed
from flywheel.contracts.codec import decode
from flywheel.contracts.dataset_folder import read_manifest, read_part
from flywheel.contracts.events import LabelRecorded, ReleaseRegistered, Split, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.layout import PREDICTIONS_FILE
from flywheel.contracts.model_folder import WEIGHTS_FILE, read_description
from flywheel.contracts.release import Release
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.evaluation.answered import write_predictions
from flywheel.kinds import Choice
from flywheel.processes.leasing import Leases
from flywheel.processes.trainer import Trainer, gather
from flywheel.registry.release_folder import assemble
from flywheel.retraining.ports import Turn
from flywheel.retraining.run_pipeline import make_turn
from flywheel.retraining.trigger import decide
from flywheel.rollout.control import on_release_registered, tick
from flywheel.rollout.decide import Readiness
from flywheel.serving.runtime import load_classifier
from flywheel.settings import FlywheelSettings, load_settings
from flywheel.training.config import TrainingSettings
from flywheel.training.train import train
from flywheel.turn.importer import Measured, WorkspaceImporter, measure_served
from flywheel.turn.pipeline import WorkspacePipeline

TASK = "topics"
LABELS = tuple(TOPICS)
CONFIG = """\
[tasks.topics]
title = "Topics"
labels = ["weather", "money", "food"]
[tasks.topics.training]
base_model = "encoder"
[tasks.topics.gate]
min_accuracy = 0.9
"""


class Loaded:
    """A model in this process, answering like a server of its own."""

    def __init__(self, folder: Path) -> None:
        self._classifier = load_classifier(folder, 1)

    def answers(self, texts: Sequence[str]) -> list[dict[str, float]]:  # type: ignore[override]
        return self._classifier.predict(texts)

    def speed(self, texts: Sequence[str], seconds: float) -> Speed:
        return Speed(
            p50_ms=1.0,
            p95_ms=1.0,
            per_second=1.0,
            in_flight=1,
            cost_ms=1.0,
            memory_bytes=1,
        )


@contextmanager
def load_here(folder: Path, bases: Path, labels: bool) -> Iterator[Loaded]:
    """A ``Serve`` without a process of its own."""
    yield Loaded(folder)


def make_models(root: Path) -> Path:
    """``root`` with a dataset and two trained models: "trained" and, badly, "worse"."""
    make_encoder(root / "base", pooling="cls")
    build_dataset(
        labelled(240, holdout=60),
        DatasetSettings(),
        Choice(LABELS),
        task=TASK,
        watermark="e000239",
        parent=None,
        folder=root / "data",
    )
    recipe = {
        "base_model": str(root / "base"),
        "learning_rate": 3e-3,
        "head_learning_rate_factor": 3.0,
        "epochs": 6,
        "min_steps": 60,
        "threads": 1,
        "max_tokens": 32,
        "train_embeddings": True,
    }
    train(root / "data", TrainingSettings.model_validate(recipe), LABELS, root / "trained")
    quick = recipe | {"epochs": 1, "min_steps": 1, "learning_rate": 1e-6}
    train(root / "data", TrainingSettings.model_validate(quick), LABELS, root / "worse")
    return root


class Workspace:
    """One workspace: its settings, its database, and a trainer and a controller to step."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "flywheel.toml").exists():
            (folder / "flywheel.toml").write_text(config, "utf-8")
        self.settings: FlywheelSettings = load_settings(folder, {})
        self.settings.state.mkdir(exist_ok=True)
        self.database = new_database(self.settings.database)

    def hold_out(self, count: int = 60, seed: int = 5, split: Split = "holdout") -> None:
        """Labels that are held out, as `flywheel ingest --split holdout` brings them in, or of
        another ``split``."""
        samples = labelled(count, seed=seed)
        now = utc_now()
        with self.database.transaction("test") as tx:
            tx.label_intake.record_samples(
                [
                    TrafficRecorded(
                        event_id=new_id(),
                        occurred_at=now,
                        task=TASK,
                        sample_id=sample.sample_id,
                        content=sample.text,
                        origin="ingest",
                    )
                    for sample in samples
                ]
            )
            tx.label_intake.record_labels(
                [
                    LabelRecorded(
                        event_id=new_id(),
                        occurred_at=now,
                        task=TASK,
                        sample_id=sample.sample_id,
                        value=sample.label,
                        source="seed",
                        annotator="ann",
                        split=split,
                    )
                    for sample in samples
                ]
            )

    def release(self, models: Path, name: str = "trained", **given: object) -> Release:
        """A registered release of a trained model, measured on the dataset's holdout."""
        folder = models / name
        dataset = read_manifest(models / "data")
        measured: Measured = measure_served(
            Loaded(folder),
            read_part(models / "data", "holdout"),
            dataset.version,
            self.settings.task(TASK),
        )
        answers = self.settings.state / f"{name}-{PREDICTIONS_FILE}"
        write_predictions(answers, measured.predictions)
        values: dict[str, object] = {
            "metrics": measured.metrics,
            "manifest": dataset,
            "to_root": self.settings.state / "releases",
            "created_at": utc_now(),
            "git_commit": "abc123",
            "parent": None,
            "gate_passed": True,
            "gate_reason": "first release",
            "recipe": {"training": {"epochs": 6}},
            "parts": {"feature_view": "source_history/1", "deployment": "embedded"},
            "extras": {PREDICTIONS_FILE: answers},
        }
        release = assemble(folder, **(values | given))  # type: ignore[arg-type]
        with self.database.transaction("test") as tx:
            tx.releases.add(release)
            tx.challengers.enqueue(TASK, release.release, release.created_at, True)
        return release

    def folder(self, release: str) -> Path:
        """Where a release lies."""
        return self.settings.layout.releases / release

    def importer(self) -> WorkspaceImporter:
        return WorkspaceImporter(self.settings, self.database, load_here)

    def turn(self, importer: WorkspaceImporter | None = None) -> Turn:
        """The turn that is due, made as the trainer makes it."""
        with self.database.transaction("trainer") as tx:
            facts = gather(tx, TASK)
        start = decide(facts, self.settings.task(TASK).retraining, utc_now())
        assert start is not None
        pipeline = WorkspacePipeline(self.settings, self.database, threading.Event())
        return make_turn(
            TASK,
            start,
            pipeline,
            importer or self.importer(),
            lambda: self.database.transaction("trainer"),
        )

    def trainer(self) -> Trainer:
        leases = Leases(self.database, "trainer", new_id())
        return Trainer(self.settings, self.database, threading.Event(), leases)

    def control(self, ticks: int = 1) -> None:
        """Let the controller hear of releases and make steps; every model server answers."""
        rows = self.database.outbox_rows("trainer")
        found = rows.unsent(100)
        for _, record in found:
            event = decode(record.value, dict(record.headers))
            if isinstance(event, ReleaseRegistered):
                on_release_registered(lambda: self.database.transaction("controller"), event)
        rows.mark_sent([number for number, _ in found])
        for _ in range(ticks):
            tick(
                lambda: self.database.transaction("controller"),
                lambda: self.database.transaction(read_only=True),
                TASK,
                self.settings.task(TASK).rollout,
                _Servers(),
                utc_now(),
            )

    def close(self) -> None:
        self.database.dispose()


class _Servers:
    def ready(self, release: str) -> Readiness:
        return Readiness(ready=1, total=1)


def as_hugging_face(folder: Path, target: Path) -> None:
    """A trained model as transformers would leave it in ``target``: without release.json, and with
    BERT's pooler, which is made to change next to nothing."""
    import torch
    from safetensors.torch import load_file, save_file

    description = read_description(folder)
    target.mkdir(parents=True)
    for name in description.files:
        (target / name).write_bytes((folder / name).read_bytes())
    state = load_file(folder / WEIGHTS_FILE)
    width = state["classifier.weight"].shape[1]
    # tanh is a straight line near 0.
    state["bert.pooler.dense.weight"] = torch.eye(width) * 0.01
    state["bert.pooler.dense.bias"] = torch.zeros(width)
    state["classifier.weight"] = state["classifier.weight"] * 100
    save_file(state, target / WEIGHTS_FILE, metadata={"format": "pt"})


def by_transformers(folder: Path, texts: Sequence[str]) -> list[dict[str, float]]:
    """What transformers says of texts, one at a time, with the tokenizer that it reads itself."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for text in texts:
        ids = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            row = torch.softmax(network(**ids).logits, dim=-1)[0].tolist()
        found.append({network.config.id2label[at]: value for at, value in enumerate(row)})
    return found
