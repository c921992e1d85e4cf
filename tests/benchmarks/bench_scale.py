"""What each operation costs as history grows, on SQLite and on PostgreSQL.

    python tests/benchmarks/bench_scale.py [--requests N …] [--database sqlite postgresql]

A history (``scale_seed``) of 10,000, 100,000, 1,000,000 and 3,000,000 requests lies in the tables;
totals are made of it as an upgrade makes them. Each operation is what a process does again and
again, on its own caches as they are after the first time; before each time 20 requests and one
expert's label come in, so that there is something new to read. Model servers are not asked: that
does not depend on history. Databases keep what they commit (``fsync``). Each row is written to
build/bench/scale.json as it comes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scale_seed import CHALLENGER, CHAMPION, LABELS, ROLLOUT, TASK, beginning, seed

sys.path.insert(0, str(Path(__file__).parents[1]))
from postgres_server import PostgresServer

from flywheel.console.overview import ChampionPolicies, overview
from flywheel.console.rollout_page import rollout_page
from flywheel.contracts.events import Event, LabelSettled, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.kinds import Choice
from flywheel.review.claim import claim_next
from flywheel.review.config import ReviewSettings
from flywheel.review.ports import Answer
from flywheel.review.submit import submit_answer
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.control import Latest, tick
from flywheel.rollout.decide import Readiness
from flywheel.rollout.judged import RunningJudged
from flywheel.settings import TaskSettings
from flywheel.triage.config import TriageSettings
from flywheel.triage.policy import CertifiedPolicy
from storage.database import Database
from streams.agents import evidence, labels, review

SIZES = (10_000, 100_000, 1_000_000, 3_000_000)
TIMES = 15
BATCH = 2000
BATCHES = 8
REVIEW = ReviewSettings()
TRIAGE = TriageSettings()
# The rollout waits in its step, whatever comes.
ROLLOUT_SETTINGS = RolloutSettings(steps=(0.5, 0.9), min_requests=10**9, max_minutes=10**6)
SETTINGS = TaskSettings.model_validate(
    {"labels": list(LABELS), "training": {"base_model": "not-used-here"}}
)


class _Servers:
    """Model servers that have both releases."""

    def ready(self, _release: str) -> Readiness:
        return Readiness(ready=1, total=1)


class Bench:
    """One database as its processes use it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.agents = {
            "label": labels.agent(database).handle,
            "evidence": evidence.agent(database).handle,
        }
        self.review = review.agent(database).handle
        self.latest: Latest = {}
        self.judged = RunningJudged()
        self.policies = ChampionPolicies()
        self.policy = CertifiedPolicy(TASK, CHAMPION, TRIAGE)

    def news(self) -> None:
        """What has come since the last time."""
        events: list[Event] = [*traffic(20)]
        with self.database.transaction("console") as tx:
            claimed = claim_next(
                tx, task=TASK, annotator="ada", limit=1, now=utc_now(), settings=REVIEW
            )
            for item in claimed.items:
                answer = Answer(
                    sample_id=item.sample_id,
                    annotator="ada",
                    value=LABELS[0],
                    answered_at=utc_now(),
                )
                settled = submit_answer(tx, TASK, Choice(LABELS), REVIEW, answer).settled
                events += [settled] if isinstance(settled, LabelSettled) else []
        for handle in self.agents.values():
            handle(events)

    def tick(self) -> None:
        tick(
            self.database.transaction,
            self.reading,
            TASK,
            ROLLOUT_SETTINGS,
            _Servers(),  # type: ignore[arg-type]
            utc_now(),
            self.latest,
        )

    def rollout_page(self) -> None:
        with self.reading() as tx:
            rollout_page(tx, TASK, ROLLOUT_SETTINGS, "", utc_now(), 0, self.judged)

    def overview(self) -> None:
        with self.reading() as tx:
            overview(tx, TASK, SETTINGS, utc_now(), self.policies)

    def policy_refresh(self) -> None:
        self.policy.read(self)

    def changed(self, task: str, release: str, after: int = 0) -> Any:
        """Audits, as the worker reads them."""
        with self.reading() as tx:
            return tx.audits.changed(task, release, after)

    def source_history(self) -> None:
        with self.reading() as tx:
            tx.overview.source_history(TASK)

    def label_counts(self) -> None:
        with self.reading() as tx:
            tx.labels.counts(TASK)

    def claim(self) -> None:
        with self.database.transaction("console") as tx:
            claim_next(tx, task=TASK, annotator="eve", limit=3, now=utc_now(), settings=REVIEW)

    @contextmanager
    def reading(self) -> Iterator[Any]:
        with self.database.transaction(read_only=True) as tx:
            yield tx

    @property
    def operations(self) -> dict[str, Callable[[], None]]:
        return {
            "controller tick": self.tick,
            "rollout page": self.rollout_page,
            "overview": self.overview,
            "triage policy refresh": self.policy_refresh,
            "source history": self.source_history,
            "label counts": self.label_counts,
            "review claim with depth": self.claim,
        }


def traffic(count: int) -> list[TrafficRecorded]:
    """Requests of now, as the gateway records them."""
    return [
        TrafficRecorded(
            event_id=new_id(),
            occurred_at=utc_now(),
            task=TASK,
            sample_id=new_id(),
            content=f"question number {number}: how far is it from here to there?",
            source=f"app-{number % 20}",
            unit=f"user-{number}",
            release=(CHAMPION, CHALLENGER)[number % 2],
            arm=("champion", "challenger")[number % 2],  # type: ignore[arg-type]
            rollout_id=ROLLOUT,
            challenger_share=0.5,
            output=LABELS[number % 6],
            scores={LABELS[number % 6]: 0.9, LABELS[(number + 1) % 6]: 0.1},
            confidence=0.9,
            latency_ms=10.0,
        )
        for number in range(count)
    ]


def timed(bench: Bench, operation: Callable[[], None]) -> tuple[float, float]:
    """Median (wall, processor) time in ms, after a first time that is not counted."""
    walls, processors = [], []
    operation()
    for _ in range(TIMES):
        bench.news()
        wall, processor = time.perf_counter(), time.process_time()
        operation()
        walls.append((time.perf_counter() - wall) * 1000)
        processors.append((time.process_time() - processor) * 1000)
    return statistics.median(walls), statistics.median(processors)


def rate(handle: Callable[[Sequence[Event]], Any]) -> float:
    """Events a second of an agent, in batches of 2,000."""
    rates = []
    for _ in range(BATCHES):
        events = traffic(BATCH)
        began = time.perf_counter()
        handle(events)
        rates.append(BATCH / (time.perf_counter() - began))
    return statistics.median(rates)


class Report:
    """The rows so far, written whenever there is a new one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.rows: list[dict[str, Any]] = []
        self.agents: list[dict[str, Any]] = []

    def write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"rows": self.rows, "agents": self.agents}, indent=2)
        self._file.write_text(content + "\n")


def measure(
    name: str, database: Database, sizes: Sequence[int], begin: datetime, report: Report
) -> None:
    """Every operation at every size of one database."""
    there = 0
    for size in sizes:
        began = time.perf_counter()
        seed(database, there, size, begin)
        there = size
        print(f"{name}: {size:,} requests, {time.perf_counter() - began:.0f} s", flush=True)
        bench = Bench(database)
        for operation, run in bench.operations.items():
            wall, processor = timed(bench, run)
            row = {"operation": operation, "database": name, "requests": size}
            report.rows.append(row | {"ms": wall, "processor_ms": processor})
            report.write()
            print(f"  {operation:<26} {wall:8.1f} ms", flush=True)
        for agent, handle in bench.agents.items():
            per_second = rate(handle)
            row = {"agent": agent, "database": name, "requests": size}
            report.agents.append(row | {"events_per_second": per_second})
            report.write()
            print(f"  {agent:<26} {per_second:8,.0f} events/s", flush=True)


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Database]:
    """A new database that keeps what it commits."""
    if name == "sqlite":
        yield from _migrated(f"sqlite:///{folder / 'flywheel.db'}")
    else:
        with PostgresServer(("shared_buffers=256MB",)) as server:
            yield from _migrated(server.url)


def _migrated(url: str) -> Iterator[Database]:
    database = Database(url)
    database.migrate()
    yield database
    database.dispose()


def table(report: Report, sizes: Sequence[int]) -> Table:
    """Operations by size, and how the largest stands to the smallest."""
    shown = Table(title="Median ms an operation (agents: events/s)")
    columns = [f"{size:,}" for size in sizes]
    for column in ("operation", "database", *columns, "largest ÷ smallest"):
        shown.add_column(column, justify="left" if column == "operation" else "right")
    for kind, rows, figure in (
        ("operation", report.rows, "ms"),
        ("agent", report.agents, "events_per_second"),
    ):
        names = dict.fromkeys((row[kind], row["database"]) for row in rows)
        for name, database in names:
            of = {
                row["requests"]: row[figure]
                for row in rows
                if (row[kind], row["database"]) == (name, database)
            }
            values = [of[size] for size in sizes if size in of]
            cells = [f"{value:,.1f}" for value in values]
            shown.add_row(name, database, *cells, f"{values[-1] / values[0]:.2f}")
    return shown


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--database", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    report = Report(asked.out / "scale.json")
    begin = beginning(max(asked.requests))
    for name in asked.database:
        with tempfile.TemporaryDirectory() as folder, opened(name, Path(folder)) as database:
            measure(name, database, asked.requests, begin, report)
    Console().print(table(report, asked.requests))


if __name__ == "__main__":
    main()
