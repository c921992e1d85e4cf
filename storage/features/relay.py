"""Keeps the feature store up to date with the database, and answers triage from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Self

import structlog

from flywheel.contracts.ids import utc_now
from flywheel.monitoring.threads import LastingThread
from flywheel.settings import FlywheelSettings
from storage.changes import Version
from storage.database import Database
from storage.features.history import SourceHistory
from storage.features.store import FeatureStore

FLUSH_SECONDS = 3.0
FORGET_SECONDS = 3600.0
_log = structlog.get_logger(__name__)


class FeatureRelay:
    """Writes what the database says of a task whenever its label agent has kept something.

    A flush writes whole aggregates, not differences: a batch that is delivered twice, or a flush
    that a crash cut short, changes nothing. Feast takes seconds to import and most of the memory,
    so it lives on a thread, is begun with when there is something to write or was before, and
    triage goes without history until it is there.
    """

    def __init__(self, settings: FlywheelSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._store: FeatureStore | None = None
        self._problems: dict[str, str] = {}
        # None at first: a process that ended may not have written what there was.
        self._written: dict[str, int] = {}
        self._ticks: Mapping[str, int] = {}
        self._read_at: Version | None = None
        self._forgot_at = time.monotonic()
        self._stopping = threading.Event()
        self._thread = LastingThread("features", self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(10)

    def online(self, task: str, sources: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Source → feature → value of a task; empty until the feature store is open."""
        return self._store.online(task, sources) if self._store is not None else {}

    def problem(self) -> str | None:
        """Why features are not being written, or None."""
        return "; ".join([*self._problems.values()]) or None

    def _run(self) -> None:
        store = self._store or FeatureStore(self._settings.layout.features)
        while not store.exists() and not self._any_kept():
            if self._stopping.wait(FLUSH_SECONDS):
                return
        self._guarded("the feature store", store.ensure)
        self._store = store
        while not self._stopping.wait(FLUSH_SECONDS):
            self._guarded("the database", lambda: self._flush_all(store))
            if time.monotonic() - self._forgot_at >= FORGET_SECONDS:
                self._forgot_at = time.monotonic()
                for task in self._settings.tasks:
                    self._guarded(task, partial(self._forget, store, task))

    def _any_kept(self) -> bool:
        """Whether the label agent has kept anything of some task."""
        return self._guarded("the database", self._read_ticks) and any(self._ticks.values())

    def _read_ticks(self) -> None:
        version = self._database.version()
        if version is None or version != self._read_at:
            with self._database.transaction(read_only=True) as tx:
                self._ticks = tx.overview.ticks()
            self._read_at = version

    def _flush_all(self, store: FeatureStore) -> None:
        self._read_ticks()
        ticks = self._ticks
        for task in self._settings.tasks:
            tick = ticks.get(task, 0)
            if self._written.get(task) != tick and self._guarded(
                task, partial(self._flush, store, task)
            ):
                self._written[task] = tick

    def _flush(self, store: FeatureStore, task: str) -> None:
        def read() -> list[SourceHistory]:
            with self._database.transaction(read_only=True) as tx:
                return tx.overview.source_history(task)

        store.refresh(task, read)

    def _forget(self, store: FeatureStore, task: str) -> None:
        days = self._settings.task(task).retention.within(self._settings.retention).features
        if not days:
            return
        before = utc_now() - timedelta(days=days)
        with self._database.transaction(read_only=True) as tx:
            # What a dataset to come weighs automatic labels by stays.
            needed = tx.overview.first_automatic(task)
        store.forget(task, before if needed is None else min(before, needed))

    def _guarded(self, what: str, action: Callable[[], None]) -> bool:
        """Run ``action``; False, and the reason kept for /healthz, when it failed."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - no task's features may end those of the others
            self._problems[what] = f"{what}: {type(error).__name__}: {error}"
            _log.warning("features not written", what=what, error=str(error))
            return False
        self._problems.pop(what, None)
        return True
