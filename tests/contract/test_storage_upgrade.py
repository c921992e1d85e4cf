"""A database written by an earlier version reads the same after the upgrade.

``old_databases/NUMBER.sql`` is a dump of such a database, NUMBER the schema it had; what the code
that wrote it read from it stands beside it as JSON.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic.command import downgrade, upgrade
from audits import audits_of
from kept_rows import totals
from rollout_evidence import arms_of, pairs_of
from sqlalchemy import MetaData, column, create_engine, func, select, table, update

from flywheel.contracts.events import LabelRecorded
from flywheel.kinds import FreeText
from flywheel.review.config import ReviewSettings
from flywheel.review.submit import undo
from flywheel.rollout.commands import carry_out
from flywheel.rollout.config import RolloutSettings
from storage.database import Database
from storage.engine import make_engine
from storage.migrations.upgrade import config
from storage.tables.columns import UtcDateTime

OLD = Path(__file__).parent / "old_databases"
TASKS = ("topic", "urgency")
REVIEW = ReviewSettings()
NOW = datetime(2026, 3, 1, 12, 0, 45, tzinfo=UTC)
# Those queued for the first task; the last two are the second's.
QUEUED = ("t1", "t2", "t3", "t4", "shared", "u1", "u2")


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that an earlier version wrote."""
    file = tmp_path / "flywheel.db"
    connection = sqlite3.connect(file)
    connection.executescript((OLD / "0002.sql").read_text("utf-8"))
    connection.close()
    url = f"sqlite:///{file}"
    if request.param == "postgresql":
        url = request.getfixturevalue("fresh_postgres")
        _copy(file, url, "0002")
    return url


@pytest.fixture
def upgraded(old: str) -> Iterator[Database]:
    database = Database(old)
    database.migrate()
    yield database
    database.dispose()


def _copy(file: Path, url: str, revision: str) -> None:
    """The rows of a SQLite database, in a PostgreSQL one of the same revision."""
    source, target = create_engine(f"sqlite:///{file}"), make_engine(url)
    with target.begin() as connection:
        upgrade(config(connection), revision)
    tables = MetaData()
    tables.reflect(target)
    with source.begin() as reading, target.begin() as writing:
        for table in tables.sorted_tables:
            rows = [_aware(row._asdict()) for row in reading.execute(table.select())]
            if rows and table.name != "alembic_version":
                writing.execute(table.insert(), rows)
            # What numbers its rows itself goes on after those.
            if "id" in table.c and table.c.id.autoincrement is True and rows:
                last = max(row["id"] for row in rows)
                sequence = func.pg_get_serial_sequence(table.name, "id")
                writing.execute(select(func.setval(sequence, last)))
    source.dispose()
    target.dispose()


def _aware(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
        for name, value in row.items()
    }


def _read(database: Database) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with database.transaction(read_only=True) as tx:
        for task in TASKS:
            watermark = tx.labels.watermark(task)
            assert watermark is not None
            found[task] = {
                "depth": tx.desk.depth(task, NOW),
                "watermark": watermark,
                "settled": tx.labels.settled(task, watermark),
                "counts": tx.labels.counts(task),
                "audits": audits_of(tx.audits, task, f"r-{task}"),
                "coverage": tx.overview.coverage(task),
                "datasets": tx.datasets.history(task),
                "releases": tx.releases.history(task),
                "champion": tx.rollouts.champion(task),
                "rollouts": tx.rollouts.history(task),
                "commands": tx.commands.pending(task),
            }
        task_of = {sample: TASKS[sample.startswith("u")] for sample in QUEUED}
        found["queue"] = {s: tx.desk.find(task, s) for s, task in task_of.items()}
        found["answers"] = {s: tx.desk.answers(task, s) for s, task in task_of.items()}
        found["arms"] = arms_of(tx.evidence, "ro-topic")
        found["pairs"] = pairs_of(tx.evidence, "ro-topic")
        found["transitions"] = tx.rollouts.transitions("ro-topic")
    found["unsent"] = {
        owner: [
            [row, record.topic, record.value.decode()]
            for row, record in database.outbox_rows(owner).unsent(100)
        ]
        for owner in ("console", "trainer")
    }
    builtins: dict[str, Any] = json.loads(json.dumps(msgspec.to_builtins(found)))
    return builtins


def _without_news(after: Any, before: Any) -> Any:
    """``after`` without the fields that the earlier version did not know; a text is its content."""
    if isinstance(before, dict):
        if "text" in before and "text" not in after:
            after = {**after, "text": after["content"]}
        return {name: _without_news(after[name], value) for name, value in before.items()}
    if isinstance(before, list) and len(after) == len(before):
        return [_without_news(*pair) for pair in zip(after, before, strict=True)]
    return after


def test_what_was_written_reads_the_same(upgraded: Database) -> None:
    before = json.loads((OLD / "0002.json").read_text("utf-8"))
    for task in TASKS:
        for audit in before[task]["audits"]:
            assert audit.pop("text") == "", "it was never filled"
        for release in before[task]["releases"]:
            del release["path"]  # it lay at its id in the workspace, and does
    for arm in before["arms"]:
        del arm["labelled"], arm["correct"]  # were of all labels, and are of audits alone
        del arm["latencies_ms"]  # are counted in buckets
    after = _read(upgraded)
    # What experts said of the sample in one task had overwritten what they said of it in the other.
    [healed] = [a for a in after["topic"]["audits"] if a["sample_id"] == "shared"]
    assert (healed["prediction"], healed["label"], healed["text"]) == (
        "billing",
        "login",
        "text of shared",
    )
    after["topic"]["audits"].remove(healed)
    assert _without_news(after, before) == before


def test_an_upgrade_that_is_ended_while_it_counts_goes_on(old: str) -> None:
    """Killed at each part of each kind of total, one after the other, and begun again each time."""

    def ended(after: int) -> bool:
        """Whether it was: it shows so many parts and is gone."""
        shown = itertools.count()

        def progress(kind: str, done: int, parts: int) -> None:
            if next(shown) == after:
                raise KeyboardInterrupt

        database = Database(old)
        try:
            database.migrate(progress)
        except KeyboardInterrupt:
            return True
        finally:
            database.dispose()
        return False

    ends = sum(1 for _ in itertools.takewhile(ended, itertools.count()))
    assert ends > 3
    database = Database(old)
    database.migrate()
    before, kept = _read(database), totals(database)
    assert any(kept.values())
    database.recount()
    assert (_read(database), totals(database)) == (before, kept)
    database.dispose()


def test_lifts_withdrawals_claims_and_ended_rollouts_are_of_their_task(upgraded: Database) -> None:
    with upgraded.work(read_only=True) as work:

        def rows(table: str) -> list[tuple[Any, ...]]:
            found = work.connection.exec_driver_sql(f"SELECT * FROM {table}")
            names = list(found.keys())
            return [(row[names.index("task")], row[0]) for row in found]

        assert rows("review_withdrawals") == [("urgency", "u2")]
        assert rows("review_lifts") == [("topic", "r-topic-1")]
        assert rows("review_ended_rollouts") == [("topic", "ro-old")]
        assert rows("review_claims") == [("topic", "t3")]
        assert sorted(rows("review_outcomes")) == [
            ("topic", "shared"),
            ("topic", "t1"),
            ("topic", "t2"),
            ("urgency", "u1"),
        ]


def test_work_goes_on_where_it_stood(upgraded: Database) -> None:
    with upgraded.transaction("console") as tx:
        mine = tx.desk.claim("topic", "cy", NOW, 300, 9, answers_needed=2)
        assert [one.sample_id for one in mine] == ["t3", "t4"], "held ones first"
        assert (
            undo(tx, "urgency", FreeText(), "bob", NOW + timedelta(seconds=1), REVIEW) is not None
        )
        assert undo(tx, "urgency", FreeText(), "bob", NOW + timedelta(seconds=2), REVIEW) is None
        assert undo(tx, "topic", FreeText(), "bob", NOW + timedelta(seconds=2), REVIEW) is not None
        found = tx.desk.find("topic", "t1")
        assert found is not None
        assert found.state == "settled"


def test_what_people_had_asked_of_a_rollout_is_carried_out(upgraded: Database) -> None:
    with upgraded.transaction("controller") as tx:
        pending = tx.commands.pending("topic")
        done = [carry_out(tx, command, RolloutSettings(), NOW) for command in pending]
        assert [event and event.state for event in done] == ["paused", "rolled_back"]
        assert tx.rollouts.active("topic") is None


def test_a_task_that_has_a_dataset_keeps_its_holdout(upgraded: Database) -> None:
    with upgraded.transaction() as tx:
        assert tx.draws.dataset("topic") == "", "as texts were drawn before"
        assert tx.draws.dataset("a new task") != ""
        assert tx.draws.triage() != ""


def test_what_was_dated_ahead_is_corrected_by_what_comes_after_the_upgrade(
    upgraded: Database,
) -> None:
    ahead = datetime.now(UTC) + timedelta(days=365)
    names = ("traffic", "labels", "settled_labels", "evidence_scores", "evidence_truths")
    dated = [table(name, column("occurred_at", UtcDateTime)) for name in names]
    with upgraded.work() as work:
        downgrade(config(work.connection), "0010")
        for one in dated:
            assert work.run(update(one).values(occurred_at=ahead))
    upgraded.migrate()
    with upgraded.work() as work:
        for one in dated:
            assert work.row(select(func.max(one.c.occurred_at)))[0] <= datetime.now(UTC)
    with upgraded.transaction() as tx:
        before = {s.sample_id: s for s in tx.labels.settled("topic", tx.labels.watermark("topic"))}
        seed = next(s for s in before.values() if s.source != "expert")
        correction = LabelRecorded(
            event_id="correction",
            occurred_at=datetime.now(UTC),
            task="topic",
            sample_id=seed.sample_id,
            value="another",
            source=seed.source,
            annotator="ann",
        )
        tx.label_intake.record_labels([correction])
        after = {s.sample_id: s for s in tx.labels.settled("topic", tx.labels.watermark("topic"))}
    assert after[seed.sample_id].label == "another"
    assert {**before, seed.sample_id: None} == {**after, seed.sample_id: None}
