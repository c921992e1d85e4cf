"""Retention by itself, as the controller and the trainer run it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from dataset_workspace import build, make
from new_database import new_database
from prometheus_client import REGISTRY
from settings_file import load

from flywheel.contracts.events import DatasetVersioned, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.datasets.versions import pruned
from flywheel.datasets.workspace import commit_dataset
from flywheel.processes.keeping import Pruning, RowRetention
from flywheel.settings import FlywheelSettings
from flywheel.upkeep.retention import REMOVING
from storage.database import Database

# DVC's own dependency warns of its future.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")
TOML = """
[retention]
datasets = 30
[tasks.mail]
labels = ["a", "b"]
training.base_model = "/models/base"
retention.traffic = 30
"""


@pytest.fixture
def settings(tmp_path: Path) -> FlywheelSettings:
    (tmp_path / "ws").mkdir()
    return load(tmp_path / "ws", TOML)


@pytest.fixture
def database(settings: FlywheelSettings) -> Iterator[Database]:
    made = new_database(settings.database)
    yield made
    made.dispose()


def test_rows_go_unless_another_removes_some(
    settings: FlywheelSettings, database: Database
) -> None:
    old = TrafficRecorded(
        event_id=new_id(),
        occurred_at=utc_now() - timedelta(days=60),
        task="mail",
        sample_id="s",
        content="x",
    )
    with database.transaction() as tx:
        tx.label_intake.record([old])
    retention = RowRetention(settings, database)

    def left() -> int:
        retention.step()
        with database.transaction(read_only=True) as tx:
            return len(tx.overview.texts("mail", ["s"]))

    with database.alone(REMOVING):
        assert left() == 1
    assert left() == 0
    labels = {"task": "mail", "table": "traffic"}
    assert REGISTRY.get_sample_value("flywheel_retention_rows_total", labels) == 1


def test_the_trainer_prunes_what_is_kept_no_longer(
    settings: FlywheelSettings, database: Database
) -> None:
    root = make(settings.workspace)
    made = []
    for count, days in ((40, 90), (50, 60), (60, 40)):
        manifest = build(root, count, made[-1].version if made else None)
        commit = commit_dataset(root, "mail", manifest)
        made.append(manifest)
        event = DatasetVersioned(
            event_id=new_id(),
            occurred_at=utc_now() - timedelta(days=days),
            task="mail",
            version=manifest.version,
            parent=manifest.parent,
            git_commit=commit.git_commit,
            dvc_hash=commit.dvc_hash,
            watermark="1",
            expert_labels=1,
            auto_labels=0,
            holdout_labels=1,
        )
        with database.transaction() as tx:
            tx.datasets.add(event)
    pruning = Pruning(settings, database)
    assert pruning.due("mail")
    pruning.step("mail")
    assert not pruning.due("mail"), "not again before an hour is over"
    reason = "retention: older than 30 days"
    assert pruned(root, "mail") == {made[0].version: reason}, "the newest and its parent stay"
    assert os.path.isdir(settings.layout.dataset("mail"))
