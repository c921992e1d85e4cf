"""Migrations: they make what the tables say, once, whoever starts first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.command import downgrade
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from flywheel.contracts.positions import Position
from flywheel.errors import StorageError
from storage.database import Database
from storage.migrations.upgrade import HEAD, config
from storage.tables import metadata

MIGRATE = """
import sys
from storage.database import Database
Database(sys.argv[1]).migrate()
print("alembic" in sys.modules)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new folder' / 'flywheel.db'}"
    fresh: str = request.getfixturevalue("fresh_postgres")
    return fresh


@pytest.fixture
def migrated(url: str) -> Iterator[Database]:
    database = Database(url)
    database.migrate()
    yield database
    database.dispose()


def test_tables_and_migrations_agree(migrated: Database) -> None:
    with migrated.work() as work:
        context = MigrationContext.configure(work.connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata()) == []


def test_the_head_known_without_alembic_is_the_head() -> None:
    assert ScriptDirectory.from_config(config()).get_current_head() == HEAD


def test_downgrade_leaves_nothing(migrated: Database) -> None:
    with migrated.work() as work:
        downgrade(config(work.connection), "base")
    with pytest.raises(StorageError, match="no tables"), migrated.transaction() as tx:
        tx.positions.of("labels")
    migrated.migrate()
    with migrated.transaction() as tx:
        assert tx.positions.of("labels") == {}


def test_several_processes_may_migrate_at_once(url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", MIGRATE, url]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(4)
    ]
    for process in started:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.strip() == "False", "a database at the newest schema needs no Alembic"


def test_a_database_of_a_later_version_is_refused(migrated: Database) -> None:
    with migrated.work() as work:
        work.connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError, match="another version of Flywheel"):
        migrated.migrate()


def test_rollouts_and_commands_of_before_they_were_numbered_are_readable(
    migrated: Database,
) -> None:
    rollout = (
        "INSERT INTO rollouts (rollout_id, task, champion, challenger, state, step, share,"
        " started_at, step_started_at, reason, looks_used, steps) VALUES ('old', 't', 'r1', 'r2',"
        " 'canary', 0, 0.05, '2026-01-01 00:00:00', '2026-01-01 00:00:00', 'x', 0, '[0.05]')"
    )
    change = (
        "INSERT INTO rollout_transitions (rollout_id, at, state, share, decided_by, reason,"
        " evidence) VALUES ('old', '2026-01-01 00:00:00', '{}', 0, 'controller', 'x', '{{}}')"
    )
    command = (
        "INSERT INTO rollout_commands (command_id, task, kind, who, why, at)"
        " VALUES ('c', 't', 'promote', 'ada', 'why', '2026-01-01 00:00:00')"
    )
    with migrated.work() as work:
        downgrade(config(work.connection), "0002")
        for statement in (rollout, change.format("warming"), change.format("canary"), command):
            work.connection.exec_driver_sql(statement)
    migrated.migrate()
    with migrated.transaction(read_only=True) as tx:
        found = tx.rollouts.active("t")
        assert found is not None
        assert found.revision == 2
        (pending,) = tx.commands.pending("t")
        assert (pending.rollout_id, pending.revision) == (None, None)


@pytest.mark.parametrize("ended", [False, True])
def test_pending_commands_are_of_the_rollout_that_stood_when_they_were_asked_for(
    migrated: Database, ended: bool
) -> None:
    began, before, after = (f"2026-01-01 00:00:{second}" for second in ("10", "05", "20"))
    ended_at = "'2026-01-01 00:00:15'" if ended else "NULL"
    kinds = ("pause", "rollback", "promote", "resume", "restore", "start")
    with migrated.work() as work:
        downgrade(config(work.connection), "0004")
        run = work.connection.exec_driver_sql
        run(
            "INSERT INTO rollouts (rollout_id, task, champion, challenger, state, step, share,"
            " started_at, step_started_at, ended_at, reason, looks_used, steps) VALUES ('ro', 't',"
            f" 'r1', 'r2', 'canary', 0, 0.05, '{began}', '{began}', {ended_at}, 'x', 0, '[0.05]')"
        )
        run(
            "INSERT INTO rollout_transitions (rollout_id, at, state, share, decided_by, reason,"
            f" evidence) VALUES ('ro', '{began}', 'canary', 0, 'controller', 'x', '{{}}')"
        )
        for when, at in (("before", before), ("after", after), ("done", after)):
            for kind in kinds:
                run(
                    "INSERT INTO rollout_commands (command_id, task, kind, who, why, at)"
                    f" VALUES ('{kind} {when}', 't', '{kind}', 'ada', 'why', '{at}')"
                )
        run(
            "INSERT INTO rollout_command_outcomes (command_id, outcome, at)"
            " SELECT command_id, 'x', at FROM rollout_commands"
            " WHERE substr(command_id, length(command_id) - 3) = 'done'"
        )
    migrated.migrate()
    with migrated.transaction(read_only=True) as tx:
        asked = [one.command for one in tx.commands.history("t")]
    named = {one.command_id for one in asked if (one.rollout_id, one.revision) == ("ro", 1)}
    assert len(asked) == 3 * len(kinds)
    if ended:
        assert named == {"start after"}
    else:
        assert named == {f"{kind} after" for kind in kinds} | {"pause before", "rollback before"}
    assert all(one.rollout_id is None for one in asked if one.command_id not in named)


def test_spellings_of_a_name_become_one_expert(migrated: Database) -> None:
    with migrated.work() as work:
        downgrade(config(work.connection), "0009")
        for sample, name, second in (("a", "Kim", 1), ("b", "kim", 2), ("a", "KIM", 3)):
            work.connection.exec_driver_sql(
                "INSERT INTO review_answers (task, sample_id, annotator, seconds, answered_at)"
                f" VALUES ('t', '{sample}', '{name}', 1, '2026-01-01 00:00:0{second}')"
            )
            work.connection.exec_driver_sql(
                "INSERT INTO review_claims (task, sample_id, annotator, expires_at)"
                f" VALUES ('t', 'held', '{name}', '2100-01-01 00:00:00')"
            )
    migrated.migrate()
    with migrated.transaction() as tx:
        assert tx.people.known_as("kIM") == "Kim"
        assert [one.annotator for one in tx.desk.answers("t", "b")] == ["Kim"]
        assert [one.annotator for one in tx.desk.answers("t", "a")] == ["Kim", "KIM"]


def test_a_group_that_an_earlier_version_ran_begins_at_what_is_committed(
    migrated: Database,
) -> None:
    with migrated.work() as work:
        downgrade(config(work.connection), "0017")
        for event in ("e1", "e2"):
            work.connection.exec_driver_sql(
                f"INSERT INTO seen (consumer, event_id) VALUES ('labels', '{event}')"
            )
    migrated.migrate()
    committed, logs = {("topic", 0): 7, ("topic", 1): 5}, {"topic": "id"}
    with migrated.transaction() as tx:
        assert not tx.positions.begun("labels")
        assert tx.positions.begun("evidence")
        assert tx.positions.of("labels") == {}
        for group in ("labels", "evidence"):
            tx.positions.begin(group, committed, logs)
    with migrated.transaction() as tx:
        assert tx.positions.begun("labels")
        tx.positions.begin("labels", {("topic", 0): 99}, logs)
        assert tx.positions.of("labels") == {
            ("topic", 0): Position("id", 7, 0),
            ("topic", 1): Position("id", 5, 0),
        }
        assert tx.positions.of("evidence") == {}
