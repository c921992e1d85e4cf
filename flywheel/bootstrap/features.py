"""Keeps the feature store up to date with the database, and answers triage from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from flywheel.contracts.events import Event, LabelSettled, TrafficRecorded
from flywheel.errors import FlywheelError
from flywheel.settings import FlywheelSettings
from storage.database import Database

if TYPE_CHECKING:
    from storage.features import FeatureStore

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
        self._problem: str | None = None
        self._dirty: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="features", daemon=True)

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
        return self._problem

    def _run(self) -> None:
        from storage.features import FeatureStore

        store = FeatureStore(self._settings.state / "features")
        self._guarded(store.ensure)
        self._store = store
        while not self._stopping.wait(FLUSH_SECONDS):
            with self._lock:
                tasks, self._dirty = self._dirty, set()
            for task in tasks:
                if not self._guarded(lambda task=task: self._flush(store, task)):  # type: ignore[misc]
                    with self._lock:
                        self._dirty.add(task)

    def _flush(self, store: FeatureStore, task: str) -> None:
        with self._database.transaction(read_only=True) as tx:
            rows = tx.overview.source_history(task)
        store.write_history(task, rows)

    def _guarded(self, action: Callable[[], None]) -> bool:
        """Run ``action``; False, and the reason kept for /healthz, when it failed."""
        try:
            action()
        except (FlywheelError, OSError) as error:
            self._problem = str(error)
            _log.warning("features not written", error=str(error))
            return False
        self._problem = None
        return True
