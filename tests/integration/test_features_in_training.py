"""Training reads the feature view as it was when each automatic label was settled: real Feast."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from new_database import new_database

from flywheel.contracts.dataset_folder import DatasetLine, Manifest, read_manifest, read_part
from flywheel.contracts.events import LabelRecorded, TrafficRecorded
from flywheel.contracts.ids import new_id
from flywheel.contracts.layout import Layout
from flywheel.settings import FlywheelSettings, load_settings
from flywheel.turn.params import write_params
from storage.database import Database
from storage.features import FeatureStore, SourceHistory

START = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
CONFIG = """\
[tasks.questions]
title = "Questions"
labels = ["NUM", "LOC"]
[tasks.questions.training]
base_model = "encoder"
[tasks.questions.dataset]
holdout_share = 0.0  # each workspace draws another holdout: one too large leaves automatic ones out
"""
# Sample → its source, and when its automatic label was settled. Of "app" experts had corrected
# 1 of 4 answers at 10 s and 2 of 3 at 20 s; "batch" has no history.
AUTOMATIC = {
    "before": ("app", 9.999999),
    "at first": ("app", 10),
    "between": ("app", 15),
    "after": ("app", 99),
    "same moment": ("batch", 15),
    "no labels": ("silent", 99),
    "two sources": ("batch", 99),
}
EXPERT = [f"expert {n}" for n in range(20)]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def history(source: str, seconds: float, expert_labels: int, corrections: int) -> SourceHistory:
    return SourceHistory(
        source=source,
        samples=9,
        mean_confidence=0.5,
        expert_labels=expert_labels,
        corrections=corrections,
        latest=at(seconds),
    )


def sent(sample: str, source: str) -> TrafficRecorded:
    return TrafficRecorded(
        event_id=new_id(),
        occurred_at=at(0),
        task="questions",
        sample_id=sample,
        content=f"text of {sample}",
        source=source,
        latency_ms=1.0,
    )


def labelled(sample: str, source: Any, seconds: float) -> LabelRecorded:
    return LabelRecorded(
        event_id=new_id(),
        occurred_at=at(seconds),
        task="questions",
        sample_id=sample,
        value="NUM" if len(sample) % 2 else "LOC",
        source=source,
        annotator=source,
    )


@pytest.fixture
def settings(tmp_path: Path) -> FlywheelSettings:
    """A workspace with settled labels, ready for the build stage."""
    (tmp_path / "flywheel.toml").write_text(CONFIG, "utf-8")
    settings = load_settings(tmp_path, {})
    settings.state.mkdir()
    database = new_database(settings.database)
    with database.transaction() as tx:
        tx.label_intake.record_samples([sent(sample, "app") for sample in EXPERT])
        tx.label_intake.record_samples([sent(s, source) for s, (source, _) in AUTOMATIC.items()])
        tx.label_intake.record_samples([sent("two sources", "app")])
        tx.label_intake.record_labels([labelled(sample, "seed", 50) for sample in EXPERT])
        automatic = [labelled(s, "auto", seconds) for s, (_, seconds) in AUTOMATIC.items()]
        tx.label_intake.record_labels(automatic)
        watermark = tx.labels.watermark("questions")
    database.dispose()
    prepare(settings, watermark)
    return settings


def prepare(settings: FlywheelSettings, watermark: str | None, **dataset: object) -> None:
    told = settings.task("questions").dataset.model_dump(mode="json") | dataset
    params = {
        "kind": "classification",
        "watermark": watermark,
        "labels": ["NUM", "LOC"],
        "parent_dataset": None,
        "dataset": told,
    }
    write_params(settings.workspace, {"questions": params})


def write_history(settings: FlywheelSettings) -> None:
    store = FeatureStore(settings.state / "features")
    store.write_history("questions", [history("app", 10, 4, 1), history("silent", 10, 0, 0)])
    store.write_history("questions", [history("app", 20, 3, 2)])


def built(settings: FlywheelSettings) -> tuple[Manifest, dict[str, DatasetLine]]:
    folder = Layout(settings.workspace).dataset("questions")
    lines = {line.sample_id: line for line in read_part(folder, "train")}
    return read_manifest(folder), lines


class Builder:
    """The build stage in a process of its own, as DVC starts it; it needs no torch.

    It builds as often as it is asked to: what it imports takes longer than what it builds.
    """

    CODE = """
import sys
from pathlib import Path
from flywheel.turn import stages
from storage.features import rates
from flywheel.settings import load_settings
rates.MOMENTS_AT_ONCE = 2
for workspace in sys.stdin:
    stages.run_stage(load_settings(Path(workspace.strip())), "build", "questions")
    assert "torch" not in sys.modules
    print("feast" in sys.modules, flush=True)
"""

    def __init__(self, settings: FlywheelSettings) -> None:
        self._settings = settings
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.CODE],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __call__(self, *, reads_features: bool) -> tuple[Manifest, dict[str, DatasetLine]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(self._settings.workspace, file=self._process.stdin, flush=True)
        while (line := self._process.stdout.readline().strip()) not in ("True", "False"):
            assert self._process.poll() is None, "the build failed"
        assert line == str(reads_features)
        return built(self._settings)

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def build(settings: FlywheelSettings) -> Iterator[Builder]:
    builder = Builder(settings)
    yield builder
    builder.close()


def test_automatic_labels_weigh_what_was_known_of_their_source_then(
    settings: FlywheelSettings, build: Builder
) -> None:
    write_history(settings)
    manifest, lines = build(reads_features=True)
    automatic = {name: line.weight for name, line in lines.items() if line.source == "auto"}
    assert automatic == {
        "before": 1.0,
        "at first": 0.75,
        "between": 0.75,
        "after": 0.333,
        "same moment": 1.0,
        "no labels": 1.0,
        "two sources": 0.333,
    }
    assert {line.weight for line in lines.values() if line.source != "auto"} == {1.0}
    assert manifest.weight_rule is not None
    assert "known of 5" in manifest.weight_rule

    # A row that is added later does not reach labels settled before its moment.
    FeatureStore(settings.state / "features").write_history(
        "questions", [history("app", 100, 9, 9)]
    )
    again, _ = build(reads_features=True)
    assert again == manifest


def test_labels_count_fully_without_features(settings: FlywheelSettings, build: Builder) -> None:
    manifest, lines = build(reads_features=False)
    assert AUTOMATIC.keys() <= lines.keys()
    assert {line.weight for line in lines.values()} == {1.0}
    assert manifest.weight_rule is None

    FeatureStore(settings.state / "features").ensure()
    again, _ = build(reads_features=True)
    assert again == manifest


def test_weights_can_be_switched_off(settings: FlywheelSettings, build: Builder) -> None:
    write_history(settings)
    database = Database(settings.database)
    with database.transaction(read_only=True) as tx:
        watermark = tx.labels.watermark("questions")
    database.dispose()
    prepare(settings, watermark, source_weights=False)
    manifest, lines = build(reads_features=False)
    assert {line.weight for line in lines.values()} == {1.0}
    assert manifest.weight_rule is None
