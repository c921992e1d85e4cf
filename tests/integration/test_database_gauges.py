"""The metrics of the queue and of held rollouts, from a real database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from new_database import new_database
from prometheus_client import REGISTRY

from flywheel.contracts.events import ReviewRequested
from flywheel.contracts.ids import new_id, utc_now
from flywheel.processes.gauges import DatabaseGauges
from flywheel.rollout import transitions
from flywheel.rollout.config import RolloutSettings
from storage.database import Database

TASK = "gauged"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = new_database(f"sqlite:///{tmp_path / 'flywheel.db'}")
    yield database
    database.dispose()


def gauge(name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"task": TASK})


def test_an_empty_database_has_no_queue_and_no_rollout(database: Database) -> None:
    DatabaseGauges(database, [TASK]).refresh()
    assert gauge("flywheel_review_open") == 0
    assert gauge("flywheel_review_oldest_seconds") == 0
    assert gauge("flywheel_rollout_paused") == 0


def test_the_oldest_sample_is_as_old_as_its_request(database: Database) -> None:
    now = utc_now()
    requests = [
        ReviewRequested(
            event_id=new_id(),
            occurred_at=now - timedelta(hours=hours),
            task=TASK,
            sample_id=f"sample-{hours}",
            content="which?",
            reason="audit",
            priority=1.0,
            inclusion_probability=1.0,
            audit=True,
        )
        for hours in (1, 5)
    ]
    with database.transaction("test") as tx:
        tx.intake.open(requests)
    DatabaseGauges(database, [TASK]).refresh()
    assert gauge("flywheel_review_open") == 2
    waited = gauge("flywheel_review_oldest_seconds")
    assert waited is not None
    assert 5 * 3600 <= waited < 6 * 3600


def test_a_held_rollout_shows_when_the_next_reading_is_due(database: Database) -> None:
    settings = RolloutSettings()
    with database.transaction("test") as tx:
        tx.rollouts.set_champion(TASK, "r-1")
        transitions.begin(tx, TASK, "r-2", settings, utc_now(), "ada", "a test")
    rarely = DatabaseGauges(database, [TASK], every=3600)
    rarely.refresh()
    assert gauge("flywheel_rollout_paused") == 0
    with database.transaction("test") as tx:
        active = tx.rollouts.active(TASK)
        assert active is not None
        tx.rollouts.save(msgspec.structs.replace(active, state="paused"), None)
    rarely.refresh()
    assert gauge("flywheel_rollout_paused") == 0
    DatabaseGauges(database, [TASK]).refresh()
    assert gauge("flywheel_rollout_paused") == 1


def test_the_share_is_shown_by_who_carries_the_task_alone(database: Database) -> None:
    mine: set[str] = set()
    gauges = DatabaseGauges(database, [TASK], every=0.0, carries=mine.__contains__)
    gauges.refresh()
    assert gauge("flywheel_rollout_challenger_share") is None
    mine.add(TASK)
    gauges.refresh()
    assert gauge("flywheel_rollout_challenger_share") == 0
    with database.transaction("test") as tx:
        tx.rollouts.set_champion(TASK, "r-1")
        transitions.begin(tx, TASK, "r-2", RolloutSettings(), utc_now(), "ada", "a test")
        active = tx.rollouts.active(TASK)
        assert active is not None
        tx.rollouts.save(msgspec.structs.replace(active, state="canary", share=0.25), None)
    gauges.refresh()
    assert gauge("flywheel_rollout_challenger_share") == 0.25
    mine.clear()
    gauges.refresh()
    assert gauge("flywheel_rollout_challenger_share") is None
