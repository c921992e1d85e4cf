"""What only the database knows, as metrics: how the queue stands, whether a rollout is held."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import Gauge

from flywheel.contracts.ids import utc_now
from flywheel.review.ports import QueueDepth
from storage.database import Database

_open = Gauge("flywheel_review_open", "Samples that wait for an expert.", ["task"])
_oldest = Gauge(
    "flywheel_review_oldest_seconds", "How long the oldest of them has been waiting.", ["task"]
)
_share = Gauge("flywheel_rollout_challenger_share", "Live share of the challenger.", ["task"])
_paused = Gauge("flywheel_rollout_paused", "1 while a rollout is held where it is.", ["task"])


class DatabaseGauges:
    """Gauges of every task, read again when the last reading is ``every`` seconds old. The share is
    shown of those tasks alone that this process ``carries``: two processes can't disagree on it."""

    def __init__(
        self,
        database: Database,
        tasks: Iterable[str],
        every: float = 5.0,
        carries: Callable[[str], object] = lambda _task: True,
    ) -> None:
        self._database, self._tasks, self._every = database, tuple(tasks), every
        self._carries = carries
        self._read_at = float("-inf")

    def refresh(self) -> None:
        """Read what is due. Raises StorageError when the database cannot be reached."""
        if time.monotonic() - self._read_at < self._every:
            return
        now = utc_now()
        with self._database.transaction(read_only=True) as tx:
            queued = tx.desk.queued()
            running = {one.task: one for one in tx.rollouts.running()}
            for task in self._tasks:
                depth = tx.desk.depth(task, now) if task in queued else QueueDepth()
                waited = (now - depth.oldest_open).total_seconds() if depth.oldest_open else 0.0
                _open.labels(task).set(depth.open)
                _oldest.labels(task).set(max(0.0, waited))
                rollout = running.get(task)
                _paused.labels(task).set(rollout is not None and rollout.state == "paused")
                if self._carries(task):
                    _share.labels(task).set(0.0 if rollout is None else rollout.share)
                else:
                    _share.remove(task)
        self._read_at = time.monotonic()


class Upkeep:
    """Counts what the tables hold at the start, and again every ``every`` seconds: without it a
    database that has grown is asked as if it were still small."""

    def __init__(self, database: Database, every: float = 600.0) -> None:
        self._database, self._every = database, every
        self._done_at = float("-inf")

    def refresh(self) -> None:
        """Do what is due. Raises StorageError when the database cannot be reached."""
        if time.monotonic() - self._done_at >= self._every:
            self._database.analyse()
            self._done_at = time.monotonic()
