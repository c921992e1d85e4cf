"""Several workers keep labels of one task at once: nothing waits for a whole batch of another's,
what lies under a watermark is fixed, and every total is what a recount says."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import func, select
from storage_events import TASK, label, settled, traffic

from flywheel.contracts.events import Event
from storage.database import Database, Transaction
from storage.repositories.settled import labels as label_rows
from storage.repositories.settled import traffic as traffic_rows
from storage.work import Work

OTHER = "other"


@contextmanager
def before_ticks(monkeypatch: pytest.MonkeyPatch, meet: Callable[[Work], None]) -> Iterator[None]:
    """``meet`` happens before a clock is locked by the thread "slow"."""
    tick = Work.tick

    def tick_after(self: Work, *arguments: Any, **named: Any) -> int:
        if threading.current_thread().name == "slow":
            meet(self)
        return tick(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Work, "tick", tick_after)
        yield


def rows_of(work: Work, table: Any) -> int:
    return int(work.connection.execute(select(func.count()).select_from(table)).scalar_one())


def keep(database: Database, events: Sequence[Event]) -> None:
    with database.transaction() as tx:
        tx.label_intake.record(events)


def state(tx: Transaction) -> list[Any]:
    return [
        tx.labels.settled(TASK, "999999999999"),
        tx.labels.counts(TASK),
        tx.overview.traffic_counts(TASK),
        tx.overview.traffic_series(TASK, 1, 10),
        tx.overview.coverage(TASK),
        tx.overview.source_history(TASK),
    ]


def test_another_worker_writes_the_same_task_while_a_batch_is_under_way(
    postgresql_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgresql_database
    written, go = threading.Event(), threading.Event()
    seen: list[tuple[int, int]] = []

    def meet(work: Work) -> None:
        seen.append((rows_of(work, traffic_rows), rows_of(work, label_rows)))
        written.set()
        assert go.wait(60)

    mine = [traffic("s1"), label("s1", "a", "seed"), traffic("s2")]
    slow = threading.Thread(target=keep, args=(database, mine), name="slow")
    with before_ticks(monkeypatch, meet):
        slow.start()
        assert written.wait(60)
        assert seen == [(2, 1)], "its rows are written before anything is locked"
        keep(database, [traffic("s3"), label("s3", "b", "seed"), label("s2", "b", "seed")])
        with database.transaction(read_only=True) as tx:
            watermark = tx.labels.watermark(TASK)
            assert watermark is not None
            known = tx.labels.settled(TASK, watermark)
        assert [sample.sample_id for sample in known] == ["s3"]
        go.set()
        slow.join(60)
    with database.transaction(read_only=True) as tx:
        assert tx.labels.settled(TASK, watermark) == known, "what came later has a later tick"
        later = tx.labels.watermark(TASK)
        assert later is not None
        assert later > watermark
        everything = tx.labels.settled(TASK, later)
    assert [(one.sample_id, one.label) for one in everything] == [
        ("s1", "a"),
        ("s2", "b"),
        ("s3", "b"),
    ]


def batches(lots: random.Random) -> list[list[Event]]:
    samples = [f"s{number}" for number in range(12)]
    events: list[Event] = []
    for sample in samples * 2:
        events.append(traffic(sample, lots.random(), source=lots.choice("xy"), content=sample))
        events.append(label(sample, lots.choice("ab"), "seed", lots.random()))
        events.append(settled(sample, lots.choice(["a", "b", None]), lots.random()))
    events += [traffic(sample, task=OTHER) for sample in samples]
    events += lots.sample(events, 10)  # delivered twice
    lots.shuffle(events)
    return [events[start : start + 6] for start in range(0, len(events), 6)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_interleaving_comes_to_the_same(database: Database, seed: int) -> None:
    work = batches(random.Random(seed))
    watermarks: list[tuple[str, list[Any]]] = []
    failures: list[BaseException] = []
    over = threading.Event()

    def worker(mine: Sequence[Sequence[Event]]) -> None:
        try:
            for batch in mine:
                retried(lambda batch=batch: keep(database, batch))  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - said by the test
            failures.append(error)

    def reader() -> None:
        while not over.is_set():
            with database.transaction(read_only=True) as tx:
                watermark = tx.labels.watermark(TASK)
                if watermark is not None:
                    watermarks.append((watermark, tx.labels.settled(TASK, watermark)))

    threads = [threading.Thread(target=worker, args=(work[n::3],)) for n in range(3)]
    reading = threading.Thread(target=reader)
    for thread in (*threads, reading):
        thread.start()
    for thread in threads:
        thread.join(120)
    over.set()
    reading.join(60)
    assert failures == []
    with database.transaction(read_only=True) as tx:
        for watermark, rows in watermarks:
            assert tx.labels.settled(TASK, watermark) == rows
        assert [mark for mark, _ in watermarks] == sorted(mark for mark, _ in watermarks)
        kept = state(tx)
    database.recount()
    with database.transaction(read_only=True) as tx:
        assert state(tx) == kept


def retried(action: Callable[[], None]) -> None:
    """As the boundary does: what another worker was in the way of goes again."""
    from flywheel.errors import StorageError

    while True:
        try:
            action()
        except StorageError:
            continue
        return
