"""Retention by itself: rows on a thread of the controller."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from prometheus_client import Counter

from flywheel.contracts.ids import utc_now
from flywheel.errors import FlywheelError
from flywheel.monitoring.threads import LastingThread
from flywheel.settings import FlywheelSettings
from flywheel.upkeep.pruning import prune_cache, prune_task
from flywheel.upkeep.retention import remove_rows, settings_of
from storage.database import Database

EVERY_SECONDS = 3600.0
FIRST_SECONDS = 60.0

_log = structlog.get_logger(__name__)
_removed = Counter("flywheel_retention_rows_total", "Rows removed by retention.", ["task", "table"])


class RowRetention:
    """Removes rows that are kept no longer, every hour, while ``may_run`` says that it is this
    process' to do. Of several that run at once one does it: the others find it at work."""

    def __init__(
        self,
        settings: FlywheelSettings,
        database: Database,
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings, self._database, self._may_run = settings, database, may_run
        self._told: dict[str, int] = {}
        self._stopping = threading.Event()
        self._thread = LastingThread("retention", self._run)

    def start(self) -> None:
        """Remove from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Remove no more; what is under way ends after its part."""
        self._stopping.set()
        self._thread.join(10.0)

    def step(self) -> None:
        """Remove what is too old now. Raises FlywheelError as the database and the store do."""
        for task in self._settings.tasks:
            with self._database.transaction() as tx:
                # Whoever reads what was judged has been told since the last step.
                tx.erasures.forget_judged(task, self._told.get(task, 0))
                self._told[task] = tx.erasures.judged_tick(task)
        stopping = self._stopping
        went = remove_rows(
            self._settings, self._database, utc_now(), stopping.is_set, stopping.wait
        )
        for task, tables in (went or {}).items():
            if tables:
                _log.info("rows removed", task=task, **tables)
            for table, rows in tables.items():
                _removed.labels(task, table).inc(rows)

    def _run(self) -> None:
        pause = FIRST_SECONDS
        while not self._stopping.wait(pause):
            pause = EVERY_SECONDS
            if not self._may_run():
                continue
            try:
                self.step()
            except FlywheelError as error:
                _log.warning("retention will try again", error=str(error), code=error.code)


class Pruning:
    """Takes away what is kept no longer of a task's releases and dataset versions, every hour,
    where the trainer has them. To be asked by whoever may make the task's turns."""

    def __init__(self, settings: FlywheelSettings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._done_at: dict[str, float] = {}
        kept = {task: settings_of(settings, task) for task in settings.tasks}
        self._ending = {task for task, own in kept.items() if own.releases or own.datasets}

    def due(self, task: str) -> bool:
        """Whether it was long ago that a task was looked at, and something is not kept for ever."""
        if task not in self._ending:
            return False
        last = self._done_at.get(task, float("-inf"))
        return time.monotonic() - last >= EVERY_SECONDS

    def step(self, task: str) -> None:
        """Do it now. Raises FlywheelError as the stores do."""
        self._done_at[task] = time.monotonic()
        now = utc_now()
        kept = settings_of(self._settings, task)
        releases, datasets = prune_task(self._settings, self._database, task, kept, now)
        if releases or datasets:
            _log.info("pruned", task=task, releases=releases, datasets=datasets)
        prune_cache(self._settings, self._settings.retention.datasets, now)
