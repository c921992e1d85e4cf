"""Keeps the feature store up to date with the database, and answers triage from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import structlog

from flywheel.contracts.events import Event, LabelSettled, TrafficRecorded
from flywheel.monitoring.threads import LastingThread
from flywheel.settings import FlywheelSettings
from storage.database import Database
from storage.features.history import SourceHistory
from storage.features.store import FeatureStore

FLUSH_SECONDS = 3.0
_log = structlog.get_logger(__name__)


class FeatureRelay:
    """Told of each batch by the label agent; writes what the database then says.

    A flush writes whole aggregates, not differences: a batch that is delivered twice, or a flush
    that a crash cut short, changes nothing. Feast takes seconds to import, so it lives on a thread
    and triage goes without history until it is there.
    """

    def __init__(self, settings: FlywheelSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._store: FeatureStore | None = None
        self._problems: dict[str, str] = {}
        # All of them at first: a process that ended may not have written what it was told.
        self._dirty: set[str] = set(settings.tasks)
        self._lock = threading.Lock()
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

    def record(self, events: Sequence[Event]) -> None:
        """Remember which tasks have something new."""
        tasks = {e.task for e in events if isinstance(e, TrafficRecorded | LabelSettled)}
        with self._lock:
            self._dirty |= tasks

    def online(self, task: str, sources: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Source → feature → value of a task; empty until the feature store is open."""
        return self._store.online(task, sources) if self._store is not None else {}

    def problem(self) -> str | None:
        """Why features are not being written, or None."""
        return "; ".join([*self._problems.values()]) or None

    def _run(self) -> None:
        store = self._store or FeatureStore(self._settings.layout.features)
        self._guarded("the feature store", store.ensure)
        self._store = store
        while not self._stopping.wait(FLUSH_SECONDS):
            with self._lock:
                tasks, self._dirty = self._dirty, set()
            for task in tasks:
                if not self._guarded(task, lambda task=task: self._flush(store, task)):  # type: ignore[misc]
                    with self._lock:
                        self._dirty.add(task)

    def _flush(self, store: FeatureStore, task: str) -> None:
        def read() -> list[SourceHistory]:
            with self._database.transaction(read_only=True) as tx:
                return tx.overview.source_history(task)

        store.refresh(task, read)

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
