"""The secrets of draws: made once, whoever asks first, and the same for all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.ids import new_id
from storage.database import Database


def test_processes_that_ask_at_once_get_one_salt(database: Database) -> None:
    barrier = threading.Barrier(8)

    def ask(_: int) -> tuple[str, str]:
        barrier.wait()
        with database.transaction() as tx:
            return tx.draws.triage(), tx.draws.dataset("topic")

    with ThreadPoolExecutor(8) as pool:
        [(triage, dataset)] = set(pool.map(ask, range(8)))
    assert len({triage, dataset, ""}) == 3, "each of its own"
    with database.transaction() as tx:
        assert (tx.draws.triage(), tx.draws.dataset("topic")) == (triage, dataset)
        assert tx.draws.dataset("urgency") not in (triage, dataset, "")
        assert len(triage.encode()) <= 64, "what a keyed hash takes"


def test_another_workspace_has_another_salt(
    sqlite_database: Database, postgresql_database: Database
) -> None:
    with sqlite_database.transaction() as one, postgresql_database.transaction() as other:
        assert one.draws.triage() != other.draws.triage()


def test_a_dataset_does_not_unmake_the_salt(database: Database) -> None:
    with database.transaction() as tx:
        salt = tx.draws.dataset("topic")
        tx.datasets.add(
            DatasetVersioned(
                event_id=new_id(), occurred_at=datetime.now(UTC), task="topic", version="d",
                parent=None, git_commit="c", dvc_hash="h", watermark="1", expert_labels=1,
                auto_labels=0, holdout_labels=0,
            )
        )  # fmt: skip
        assert tx.draws.dataset("topic") == salt
    database.migrate()
    with database.transaction() as tx:
        assert tx.draws.dataset("topic") == salt
