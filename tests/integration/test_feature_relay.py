"""The thread that keeps features: one row, one task, one surprise never ends it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from new_database import new_database
from sqlalchemy import update

from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.ids import new_id
from flywheel.errors import StorageError
from flywheel.processes.features import FeatureProcess
from flywheel.settings import load_settings
from storage.database import Database
from storage.features import FeatureStore
from storage.features.relay import FeatureRelay
from storage.tables.columns import table_of
from storage.tables.labels import TrafficRow


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeatureRelay]:
    (tmp_path / "flywheel.toml").write_text(
        "".join(
            f'[tasks.{task}]\nlabels = ["a", "b"]\ntraining.base_model = "models/base"\n'
            for task in ("one", "two")
        ),
        "utf-8",
    )
    monkeypatch.setattr("storage.features.relay.FLUSH_SECONDS", 0.02)
    settings = load_settings(tmp_path, {})
    database = new_database(settings.database)
    yield FeatureRelay(settings, database)
    database.dispose()


@pytest.fixture
def relay(empty: FeatureRelay) -> FeatureRelay:
    for task in ("one", "two"):
        record(empty._database, task)
    return empty


def record(database: Database, task: str) -> TrafficRecorded:
    event = TrafficRecorded(
        event_id=new_id(),
        occurred_at=datetime.now(UTC),
        task=task,
        sample_id=new_id(),
        content="hm",
        source="app",
    )
    with database.transaction() as tx:
        tx.label_intake.record_samples([event])
    return event


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def samples(relay: FeatureRelay, task: str) -> float:
    return relay.online(task, ["app"]).get("app", {}).get("samples", 0)


def test_nothing_is_made_until_something_was_kept(
    empty: FeatureRelay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    real = Database.version

    def counted(self: Database) -> object:
        looks.append(True)
        return real(self)

    monkeypatch.setattr(Database, "version", counted)
    with empty:
        until(lambda: len(looks) > 3)
        assert not (tmp_path / ".flywheel/features").exists()
        record(empty._database, "one")
        until(lambda: samples(empty, "one") == 1)


def test_a_year_that_no_table_of_features_has_ends_nothing(relay: FeatureRelay) -> None:
    traffic = table_of(TrafficRow)
    with relay._database.work() as work:  # what an earlier version, without bounds, let in
        far = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
        work.run(update(traffic).where(traffic.c.task == "one").values(occurred_at=far))
    with relay:
        # Without anything new: what a process that was killed left unwritten.
        until(lambda: samples(relay, "one") == samples(relay, "two") == 1)
        record(relay._database, "one")
        until(lambda: samples(relay, "one") == 2)
        assert relay.problem() is None


def test_a_surprise_in_one_task_is_said_and_passes(
    relay: FeatureRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, failing = FeatureStore.refresh, [True]

    def refresh(store: FeatureStore, task: str, read: Callable[[], list[object]]) -> None:
        if task == "one" and failing[0]:
            raise OverflowError("out of bounds nanosecond timestamp")
        whole(store, task, read)  # type: ignore[arg-type]

    monkeypatch.setattr(FeatureStore, "refresh", refresh)
    with relay:
        until(lambda: relay.problem() is not None and samples(relay, "two") == 1)
        assert relay.problem() == "one: OverflowError: out of bounds nanosecond timestamp"
        failing[0] = False
        until(lambda: relay.problem() is None and samples(relay, "one") == 1)


def test_the_store_in_a_process_of_its_own_answers_and_is_started_anew(
    relay: FeatureRelay,
) -> None:
    settings = relay._settings
    with FeatureProcess(settings) as features:
        assert features.online("one", ["app"]) == {}, "nobody waits for its start"

        def known() -> float:
            return features.online("one", ["app"]).get("app", {}).get("samples", 0)

        until(lambda: known() == 1)
        record(relay._database, "one")  # noticed by the task's clock alone
        until(lambda: known() == 2)
        assert features.problem() is None
        assert features.online("one", ["nobody"]) == {}
        child = features._process
        assert child is not None
        child.send_signal(signal.SIGTERM)  # as the whole worker is: it answers until that has ended
        record(relay._database, "one")
        until(lambda: known() == 3)
        assert child.poll() is None
        child.kill()
        child.wait()
        assert "started anew" in (features.problem() or "")
        with contextlib.suppress(StorageError):
            features.online("one", ["app"])
        until(lambda: features._process is not child and features.problem() is None)

        def again() -> float:
            with contextlib.suppress(StorageError):
                return known()
            return 0

        until(lambda: again() == 3)
        child = features._process
    assert child is not None
    assert child.poll() == 0, "it ends with the worker"
