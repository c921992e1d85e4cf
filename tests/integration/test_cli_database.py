"""`flywheel database recount`, and the counting that an upgrade does by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from new_database import new_database

from flywheel.cli import cli
from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.settings import load_settings
from storage.database import Database
from storage.totals import TOTALS

CONFIG = """\
[tasks.questions]
labels = ["NUM", "LOC"]
[tasks.questions.training]
base_model = "encoder"
"""


def seeded(folder: Path) -> str:
    """The URL of a workspace's database with three requests in it."""
    (folder / "flywheel.toml").write_text(CONFIG)
    settings = load_settings(folder, {})
    settings.state.mkdir()
    database = new_database(settings.database)
    with database.transaction() as tx:
        tx.label_intake.record_samples(
            [
                TrafficRecorded(
                    event_id=new_id(), occurred_at=utc_now(), task="questions", sample_id=new_id(),
                    content=f"text {number}", release="r",
                )
                for number in range(3)
            ]
        )  # fmt: skip
    database.dispose()
    return settings.database


def requests(url: str) -> int:
    database = Database(url)
    with database.transaction(read_only=True) as tx:
        found = tx.overview.traffic_counts("questions")["requests"]
    database.dispose()
    return int(found)


def change(url: str, statement: str) -> None:
    database = Database(url)
    with database.work() as work:
        work.connection.exec_driver_sql(statement)
    database.dispose()


def test_recount_makes_every_total_what_its_rows_come_to(tmp_path: Path) -> None:
    url = seeded(tmp_path)
    change(url, "UPDATE traffic_totals SET requests = 70")
    assert requests(url) == 70
    done = CliRunner().invoke(cli, ["-w", str(tmp_path), "database", "recount"])
    assert done.exit_code == 0, done.output
    assert "counted anew" in done.output
    assert requests(url) == 3


def test_a_database_that_kept_no_totals_is_counted_when_it_is_opened(tmp_path: Path) -> None:
    url = seeded(tmp_path)
    for table in ("kept_totals", "traffic_totals"):
        change(url, f"DELETE FROM {table}")
    said: list[tuple[str, int, int]] = []
    database = Database(url)
    database.migrate(lambda kind, done, parts: said.append((kind, done, parts)))
    assert {kind for kind, _, _ in said} == {total.name for total in TOTALS}
    assert ("traffic", 1, 1) in said
    assert requests(url) == 3
    said.clear()
    database.migrate(lambda kind, done, parts: said.append((kind, done, parts)))
    assert not said
    database.dispose()


def test_what_is_counted_by_another_version_is_counted_again(tmp_path: Path) -> None:
    url = seeded(tmp_path)
    change(url, "UPDATE kept_totals SET version = 0 WHERE name = 'traffic'")
    change(url, "UPDATE traffic_totals SET requests = 70")
    database = Database(url)
    database.migrate()
    database.dispose()
    assert requests(url) == 3


def test_what_a_command_counts_first_is_not_among_what_it_prints(tmp_path: Path) -> None:
    change(seeded(tmp_path), "DELETE FROM kept_totals")
    command = [sys.executable, "-m", "flywheel", "-w", str(tmp_path), "review", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "questions" in json.dumps(json.loads(done.stdout))
    assert "counting what the database keeps" in done.stderr
