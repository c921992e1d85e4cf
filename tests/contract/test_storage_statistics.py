"""A SQLite database counts what it holds, so that evidence is found from its few audits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from storage_events import settled, shadow, traffic

from rollout_evidence import pairs_of
from flywheel.processes.gauges import Upkeep
from storage.database import Database
from storage.repositories.evidence import SqlEvidence

CHAMPION = {"release": "r1", "arm": "champion", "rollout_id": "rollout"}
SAMPLES, AUDITED_EACH = 4000, 40


def fill(database: Database) -> None:
    """A rollout that both arms scored, of which few samples are audited."""
    names = [f"s{number}" for number in range(SAMPLES)]
    with database.transaction() as tx:
        tx.evidence_intake.record([traffic(name, **CHAMPION) for name in names])
        tx.evidence_intake.record([shadow(name) for name in names])
        tx.evidence_intake.record([settled(name, "a") for name in names[::AUDITED_EACH]])


def first_table(database: Database) -> str:
    """Where SQLite begins when it looks for pairs, as its plan says."""
    with database.work(read_only=True) as work:
        asked: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, given: Any, *_more: Any) -> None:
            asked.append((statement, given))

        event.listen(work.connection, "before_cursor_execute", note)
        SqlEvidence(work).pairs("rollout")
        event.remove(work.connection, "before_cursor_execute", note)
        statement, given = asked[0]
        plan = work.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given).all()
    return str(plan[0].detail)


def test_the_few_audits_lead_to_the_pairs(database: Database) -> None:
    fill(database)
    Upkeep(database).refresh()
    with database.transaction(read_only=True) as tx:
        assert len(pairs_of(tx.evidence, "rollout")) == SAMPLES / AUDITED_EACH
    with database.work(read_only=True) as work:
        if not work.sqlite:
            return  # PostgreSQL's autovacuum counts by itself
    assert "evidence_truths" in first_table(database)
