"""Labels whose request is gone, or never came, are kept no longer than others."""

from __future__ import annotations

from typing import Any

import pytest
from kept_rows import DAY, answered, begin_rollout, keep, rows, swept, totals
from storage_events import TASK, label

from flywheel.retention.config import RetentionSettings
from storage.database import Database


@pytest.mark.parametrize("source", ["rule", "user"])
def test_labels_whose_request_is_gone_are_kept_no_longer_than_others(
    database: Database, source: Any
) -> None:
    """A label may be a text. It came after its request had gone, or its request never came."""
    begin_rollout(database, ended=True)
    late = label("late", "x", source, 40 * DAY)
    never, young = label("never", "x", source, 35 * DAY), label("young", "x", source, 99 * DAY)
    keep(database, answered("late", 1))
    short = RetentionSettings(traffic=60, automatic=70, labelled=70)
    swept(database, short)
    keep(database, [late, never, young])
    swept(database, RetentionSettings(automatic=80, labelled=80))
    assert rows(database, "labels") == {"late", "never", "young"}
    swept(database, RetentionSettings(traffic=60, automatic=50, labelled=50))
    assert rows(database, "labels") == {"young"}
    assert rows(database, "evidence_truths") <= {"young"}
    with database.transaction(read_only=True) as tx:
        assert tx.balance.waiting() == {TASK: 1}
    before = totals(database)
    keep(database, [late, never, young])
    assert totals(database) == before
    database.recount()
    assert totals(database) == before
