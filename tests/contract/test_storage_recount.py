"""Totals are counted anew, and rows removed by two at once, while agents go on writing."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from kept_rows import DAY, begin_rollout, keep, rows, totals
from storage_events import START, TASK, label, request, shadow, traffic

from flywheel.contracts.events import Event
from flywheel.retention.config import RetentionSettings
from flywheel.retention.sweep import cutoffs, sweep
from storage.database import Database

NOW = START + timedelta(days=100)


def story(name: str, days: float) -> list[Event]:
    of_arm = {"arm": "champion", "rollout_id": "rollout", "challenger_share": 0.1}
    return [
        traffic(name, days * DAY, unit=f"user of {name}", **of_arm),
        shadow(name, days * DAY, challenger_share=0.1),
        label(name, "a", "user", days * DAY + 1),
    ]


def meanwhile(database: Database, work: Callable[[], None]) -> None:
    """Do ``work`` while agents take in what comes, each in transactions of its own."""
    over = threading.Event()

    def agent(name: str, take: Callable[[list[Event]], None]) -> None:
        for turn in itertools.count():
            take([one for n in range(5) for one in story(f"new {turn} {n}", 99)])
            # SQLite is not fair: who writes all the time keeps others out.
            if over.wait(0.1):
                return

    def labels(events: list[Event]) -> None:
        with database.transaction() as tx:
            tx.label_intake.record(events)

    def evidence(events: list[Event]) -> None:
        with database.transaction() as tx:
            tx.evidence_intake.record(events)

    def review(events: list[Event]) -> None:
        with database.transaction() as tx:
            names = sorted({str(getattr(event, "sample_id", "")) for event in events})
            tx.intake.open([request(name, seconds=99 * DAY) for name in names])

    takes = {"labels": labels, "evidence": evidence, "review": review}
    with ThreadPoolExecutor(len(takes)) as pool:
        agents = [pool.submit(agent, *one) for one in takes.items()]
        try:
            work()
        finally:
            over.set()
        for one in agents:
            one.result()


def test_counted_anew_while_agents_write(database: Database) -> None:
    begin_rollout(database, ended=False)
    keep(database, [one for n in range(100) for one in story(f"old {n}", 1)])

    def recounts() -> None:
        for _ in range(2):
            database.recount()

    meanwhile(database, recounts)
    kept = totals(database)
    database.recount()
    assert totals(database) == kept
    with database.transaction(read_only=True) as tx:
        assert tx.overview.traffic_counts(TASK)["requests"] == len(rows(database, "traffic"))


def test_two_that_remove_rows_at_once_lose_and_double_nothing(database: Database) -> None:
    """What keeps the second from beginning may break: the connection that holds it, say."""
    begin_rollout(database, ended=True)
    old = [one for n in range(450) for one in story(f"old {n}", 1)]
    keep(database, [event for n, event in enumerate(old) if n % 3 < 2])  # nobody labelled them
    with database.transaction(read_only=True) as tx:
        before = tx.overview.traffic_counts(TASK)["requests"]
    settings = RetentionSettings(traffic=30, evidence=30)

    def swept(_: int) -> int:
        reading = lambda: database.transaction(read_only=True)  # noqa: E731
        went = sweep(
            database.transaction, reading, TASK, cutoffs(settings, NOW), rest=lambda _: None
        )
        return went["traffic"]

    gone: list[int] = []

    def both() -> None:
        with ThreadPoolExecutor(2) as pool:
            gone.extend(pool.map(swept, range(2)))

    meanwhile(database, both)
    assert sum(gone) == 450
    left = rows(database, "traffic")
    assert not {name for name in left if name.startswith("old")}
    with database.transaction(read_only=True) as tx:
        assert tx.overview.traffic_counts(TASK)["requests"] == before + len(left)
    kept = totals(database)
    database.recount()
    assert totals(database) == kept
