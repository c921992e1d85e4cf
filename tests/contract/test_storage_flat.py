"""What readers ask again and again costs as much in a long history as in a short one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from new_database import new_database
from sqlalchemy import event
from storage_events import TASK, at, label, request, settled, shadow, traffic

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.ids import new_id
from flywheel.rollout.judged import JudgedSamples
from flywheel.rollout.ports import SETTLE, Rollout
from flywheel.triage.known_audits import KnownAudits
from flywheel.triage.rules import Rules
from storage.database import Database, Transaction
from storage.work import Work

SHORT, LONG = 400, 4000
ARMS = (
    {"release": "r1", "arm": "champion", "rollout_id": "rollout", "challenger_share": 0.5},
    {"release": "r2", "arm": "challenger", "rollout_id": "rollout", "challenger_share": 0.5},
)
SINCE = at(0)
ROLLOUT = Rollout(
    rollout_id="rollout",
    task=TASK,
    champion="r1",
    challenger="r2",
    state="canary",
    step=0,
    share=0.5,
    started_at=SINCE - SETTLE,
    step_started_at=SINCE - SETTLE,
)


def grow(database: Database, start: int, stop: int) -> None:
    """Requests of a rollout; of each twenty one was audited, and nine have an automatic label."""
    names = [(number, f"s{number:06d}") for number in range(start, stop)]
    live = [
        traffic(name, number, unit=f"u{number}", source=f"app-{number % 5}", **ARMS[number % 2])
        for number, name in names
    ]
    audited = [name for number, name in names if number % 20 == 0]
    experts = [settled(name, "a", 10_000) for name in audited[::2]]
    automatic = [label(name, "a", "auto", 1) for number, name in names if number % 20 > 10]
    with database.transaction("worker") as tx:
        tx.label_intake.record_samples(live)
        tx.intake.open([request(name, audit=True) for name in audited])
        tx.label_intake.record_labels(automatic)
        tx.label_intake.record_settlements(experts)
        shadows = [shadow(name, 1, **ARMS[(number + 1) % 2]) for number, name in names]
        tx.evidence_intake.record([*live, *shadows, *experts])
        for one in experts:
            tx.intake.withdraw(TASK, [one.sample_id])


class Readers:
    """Each as a process keeps it: what it read before it does not read again."""

    def __init__(self, database: Database) -> None:
        self.judged = JudgedSamples("rollout")
        self.audits = KnownAudits(TASK, "r1", Rules(()))
        with database.transaction(read_only=True) as tx:
            self.judged.read(tx.evidence)
            self.audits.read(tx.audits)
            self.watermark = tx.labels.watermark(TASK)
        with database.transaction("trainer") as tx:
            tx.datasets.add(
                DatasetVersioned(
                    event_id=new_id(), occurred_at=at(20_000), task=TASK, version=new_id(),
                    parent=None, git_commit="c", dvc_hash="h", watermark=self.watermark or "",
                    expert_labels=1, auto_labels=1, holdout_labels=1,
                )
            )  # fmt: skip
        grow(database, LONG + 1, LONG + 22)

    @property
    def all(self) -> dict[str, Callable[[Transaction], Any]]:
        return {
            "arms": lambda tx: tx.evidence.arms("rollout"),
            "window": lambda tx: tx.evidence.assignment("rollout", SINCE),
            "judged": lambda tx: self.judged.read(tx.evidence),
            "audits": lambda tx: self.audits.read(tx.audits),
            "traffic": lambda tx: tx.overview.traffic_counts(TASK),
            "series": lambda tx: tx.overview.traffic_series(TASK, 10, 30),
            "coverage": lambda tx: tx.overview.coverage(TASK),
            "values": lambda tx: tx.overview.settled_values(TASK),
            "sources": lambda tx: tx.overview.source_history(TASK),
            "labels": lambda tx: tx.labels.counts(TASK),
            "new labels": lambda tx: tx.labels.counts(TASK, self.watermark),
            "waiting labels": lambda tx: tx.balance.waiting(),
            "depth": lambda tx: tx.desk.depth(TASK, at(20_000)),
            "claim": lambda tx: tx.desk.claim(TASK, "ada", at(20_000), 60, 3),
        }


@contextmanager
def counted(work: Work) -> Iterator[list[int]]:
    """How many instructions SQLite carries out, in tens."""
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    driver: Any = work.connection.connection.driver_connection
    driver.set_progress_handler(step, 10)
    yield steps
    driver.set_progress_handler(None, 0)


def costs(folder: Path, requests: int) -> dict[str, int]:
    database = new_database(f"sqlite:///{folder / f'{requests}.db'}")
    with database.transaction("controller") as tx:
        tx.rollouts.save(ROLLOUT, None)
    for start in range(0, requests, 1000):
        grow(database, start, min(start + 1000, requests))
    readers = Readers(database)
    database.analyse()
    found: dict[str, int] = {}
    for name, read in readers.all.items():
        with database.work() as work, counted(work) as steps:
            read(Transaction(work))
        found[name] = steps[0]
    database.dispose()
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], dict[str, int]]:
    folder = tmp_path_factory.mktemp("flat")
    return costs(folder, SHORT), costs(folder, LONG)


def test_no_reader_pays_for_history(both: tuple[dict[str, int], dict[str, int]]) -> None:
    short, long = both
    grown = {
        name: (short[name], long[name]) for name in short if long[name] > 1.5 * short[name] + 30
    }
    assert not grown


def recounted(folder: Path, requests: int) -> int:
    """What it costs to count every total anew in a database that nobody analysed."""
    database = new_database(f"sqlite:///{folder / f'{requests}.db'}")
    grow(database, 0, requests)
    database.dispose()
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    def watch(driver: Any, _: object) -> None:
        driver.set_progress_handler(step, 10)

    event.listen(database._engine, "connect", watch)
    database.recount()
    database.dispose()
    return steps[0]


def test_totals_are_counted_anew_in_time_that_grows_as_the_rows_do(tmp_path: Path) -> None:
    assert recounted(tmp_path, 5 * SHORT) <= 1.5 * 5 * recounted(tmp_path, SHORT)
