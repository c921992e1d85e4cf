"""Retention by itself, as the controller and the trainer run it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from click.testing import CliRunner
from dataset_workspace import build, make
from new_database import new_database
from prometheus_client import REGISTRY
from settings_file import load

from flywheel.cli import cli
from flywheel.contracts.events import DatasetVersioned, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.datasets.versions import pruned
from flywheel.datasets.workspace import commit_dataset
from flywheel.processes.keeping import Pruning, RowRetention
from flywheel.retention.config import RetentionSettings
from flywheel.retention.sweep import cutoffs
from flywheel.settings import FlywheelSettings
from flywheel.upkeep.retention import REMOVING, remove_rows
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

    labels = {"task": "mail", "table": "traffic"}

    def removed() -> float:
        return REGISTRY.get_sample_value("flywheel_retention_rows_total", labels) or 0

    before = removed()
    with database.alone(REMOVING):
        assert left() == 1
    assert left() == 0
    assert removed() == before + 1


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


def old_of(task: str, sample: str) -> TrafficRecorded:
    return TrafficRecorded(
        event_id=new_id(),
        occurred_at=utc_now() - timedelta(days=60),
        task=task,
        sample_id=sample,
        content="x",
    )


def test_a_task_that_left_the_configuration_goes_only_where_somebody_says_so(
    tmp_path: Path,
) -> None:
    """Its own days, which may have been more, are known no longer."""
    settings = load(tmp_path, TOML.replace("datasets = 30", "traffic = 30"))
    database = new_database(settings.database)
    with database.transaction() as tx:
        tx.label_intake.record([old_of("mail", "s"), old_of("post", "t")])

    def said(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["-w", str(settings.workspace), "retention", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    def left() -> set[str]:
        with database.transaction(read_only=True) as tx:
            return {*tx.overview.texts("mail", ["s"]), *tx.overview.texts("post", ["t"])}

    assert "post: in flywheel.toml no longer" in said("plan")
    RowRetention(settings, database).step()
    assert left() == {"t"}
    said("run")
    assert left() == {"t"}
    said("run", "--departed")
    assert left() == set()
    assert "no longer" not in said("plan")
    database.dispose()


def test_a_clock_that_runs_ahead_costs_nothing(
    settings: FlywheelSettings, database: Database
) -> None:
    """Of this host's clock and the database's, the earlier one counts."""
    young = msgspec.structs.replace(old_of("mail", "s"), occurred_at=utc_now())
    with database.transaction() as tx:
        tx.label_intake.record([young])
    remove_rows(settings, database, utc_now() + timedelta(days=365))
    later = msgspec.structs.replace(young, event_id=new_id(), sample_id="t")
    with database.transaction() as tx:
        tx.label_intake.record([later])
    with database.transaction(read_only=True) as tx:
        assert set(tx.overview.texts("mail", ["s", "t"])) == {"s", "t"}


def test_a_clock_that_goes_back_opens_nothing_again(
    settings: FlywheelSettings, database: Database
) -> None:
    old = old_of("mail", "s")
    with database.transaction() as tx:
        tx.label_intake.record([old])
    remove_rows(settings, database, utc_now())
    remove_rows(settings, database, utc_now() - timedelta(days=300))
    with database.transaction() as tx:
        tx.label_intake.record([old])
    with database.transaction(read_only=True) as tx:
        assert tx.overview.texts("mail", ["s"]) == {}
        assert tx.overview.traffic_counts("mail")["requests"] == 1


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Pacific/Apia"])
def test_days_begin_in_utc_where_clocks_are_put_forward_and_back(zone: str) -> None:
    for month, day in ((3, 8), (3, 29), (10, 25), (11, 1)):
        for hour in range(24):
            local = datetime(2026, month, day, hour, 30, tzinfo=ZoneInfo(zone))
            before = cutoffs(RetentionSettings(traffic=1), local)["traffic"]
            kept = local.astimezone(UTC) - before
            assert timedelta(days=1) <= kept < timedelta(days=2)
            assert before.utcoffset() == timedelta()
            assert (before.hour, before.minute) == (0, 0)
