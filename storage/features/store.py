"""Features of the sources of traffic: online for triage, in their history for training."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import StorageError
from storage.features.history import SourceHistory

if TYPE_CHECKING:
    from pandas import DataFrame

_CONFIGURATION = """\
project: flywheel
provider: local
registry:
  path: registry.db
  cache_ttl_seconds: 0
online_store:
  type: sqlite
  path: online.db
offline_store:
  type: dask
entity_key_serialization_version: 3
"""
_FILES_AT_MOST = 128


class FeatureStore:
    """A Feast repository in the folder ``path``; made when first used, safe between threads.

    Importing Feast takes seconds, so it happens in ``ensure`` or in the first call, not before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._history = path / "source_history"
        self._lock = threading.RLock()
        self._feast: Any = None
        self._written: dict[str, SourceHistory] = {}  # by entity

    def exists(self) -> bool:
        """Whether something was written before."""
        return self._history.is_dir()

    def ensure(self) -> None:
        """Make or update the repository; several processes may do so at once."""
        with self._lock:
            if self._feast is not None:
                return
            self._history.mkdir(parents=True, exist_ok=True)
            with _feast_alone(), self._locked(), _failures_named():
                self._feast = self._open()

    def write_history(self, task: str, rows: Sequence[SourceHistory]) -> None:
        """Make these the present features of a task's sources, and add them to the history.

        A repeated row changes nothing, and an older one only the history. Raises StorageError when
        the folder cannot be written.
        """
        self.ensure()
        with self._locked(), self._lock, _failures_named():
            self._write(task, rows)

    def refresh(self, task: str, read: Callable[[], Sequence[SourceHistory]]) -> None:
        """Write what ``read`` says of a task's sources, as ``write_history`` does.

        Nobody else writes from before it is read until it is written, so that what was read
        earlier never comes later. It is therefore newer than what is online: a source whose last
        moment went back, since a label was withdrawn, is dated now.
        """
        self.ensure()
        with _failures_named(), self._locked():
            rows = read()  # which may take a while, and keeps nobody from what is online
            with self._lock:
                new = [row for row in rows if self._written.get(_entity(task, row.source)) != row]
                online = self._moments(task, [row.source for row in new])
                self._write(task, [self._no_older(task, row, online) for row in new])

    def _no_older(
        self, task: str, row: SourceHistory, online: Mapping[str, datetime]
    ) -> SourceHistory:
        if row.latest >= online.get(row.source, row.latest):
            return row
        known = self._written.get(_entity(task, row.source))
        if known is not None and msgspec.structs.replace(row, latest=known.latest) == known:
            return known
        return msgspec.structs.replace(row, latest=utc_now())

    def _write(self, task: str, rows: Sequence[SourceHistory]) -> None:
        # What a clock that ran ahead dated was known by now, and Feast has no moment after 2262.
        now = utc_now()
        bounded = [msgspec.structs.replace(row, latest=min(row.latest, now)) for row in rows]
        fresh = [row for row in bounded if self._written.get(_entity(task, row.source)) != row]
        if not fresh:
            return
        _write_parquet(_frame(task, fresh), self._history / f"{new_id()}.parquet")
        # Feast's online store takes whatever comes last.
        online = self._moments(task, [row.source for row in fresh])
        newest = [row for row in fresh if row.latest >= online.get(row.source, row.latest)]
        if newest:
            self._feast.write_to_online_store("source_history", _frame(task, newest))
        if sum(1 for _ in self._history.glob("*.parquet")) >= _FILES_AT_MOST:
            self._merge()
        self._written |= {_entity(task, row.source): row for row in newest}

    def _moments(self, task: str, sources: Sequence[str]) -> dict[str, datetime]:
        """Source → the moment of its features online, to the second where another process wrote
        them, and no later than now."""
        if not sources:
            return {}
        from storage.features.definitions import VIEW

        online = self._feast.get_online_features(
            features=[f"{VIEW}:samples"],
            entity_rows=[{"source": _entity(task, source)} for source in sources],
        ).to_dict(include_event_timestamps=True)
        now = utc_now()
        moments: dict[str, datetime] = {}
        for source, samples, seconds in zip(
            sources, online["samples"], online["samples__ts"], strict=True
        ):
            if samples is not None:
                known = self._written.get(_entity(task, source))
                moment = datetime.fromtimestamp(seconds, UTC)
                moments[source] = min(now, max(moment, known.latest if known else moment))
        return moments

    def online(self, task: str, sources: Sequence[str]) -> dict[str, dict[str, float]]:
        """The present features of a task by source; one that was never seen is left out."""
        if not sources:
            return {}
        self.ensure()
        from storage.features.definitions import FEATURES, VIEW

        wanted = list(dict.fromkeys(sources))
        with self._lock, _failures_named():
            online = self._feast.get_online_features(
                features=[f"{VIEW}:{name}" for name in FEATURES],
                entity_rows=[{"source": _entity(task, source)} for source in wanted],
            ).to_dict()
        return {
            source: {name: float(online[name][i]) for name in FEATURES}
            for i, source in enumerate(wanted)
            if online["samples"][i] is not None
        }

    def historical(self, task: str, entities: DataFrame) -> DataFrame:
        """``entities`` (columns ``source`` and ``event_timestamp``) with the features that a task
        had of them at each moment; missing where nothing was known yet.

        Earlier versions kept one history of a source for all tasks: it counts up to the moment
        from which a task has its own.
        """
        self.ensure()
        import numpy
        import pandas

        from storage.features.definitions import FEATURES, VIEW

        own = entities.assign(source=[_entity(task, source) for source in entities["source"]])
        with self._locked(), self._lock, _failures_named():
            # Feast's Dask store sorts rows without a match only within one file.
            self._merge()
            job = self._feast.get_historical_features(
                entity_df=pandas.concat([own, entities], ignore_index=True),
                features=[f"{VIEW}:{name}" for name in FEATURES],
            )
            history: DataFrame = job.to_df()
        # Feast leaves out moments before the first row of a source, and keeps no order.
        key = ["source", "event_timestamp"]
        known = history.drop_duplicates(key)[[*key, *FEATURES]]
        mine, shared = (asked.merge(known, on=key, how="left") for asked in (own, entities))
        there = mine["samples"].notna()
        values = {name: numpy.where(there, mine[name], shared[name]) for name in FEATURES}
        return entities.reset_index(drop=True).assign(**values)

    def forget(self, task: str, before: datetime) -> int:
        """Take away what was known of a task's sources before a moment, except what was known of
        each last: it was so at that moment. How many rows went."""
        self.ensure()
        import pandas

        with self._locked(), self._lock, _failures_named():
            files = sorted(self._history.glob("*.parquet"))
            rows = pandas.concat([pandas.read_parquet(file) for file in files], ignore_index=True)
            rows = rows.sort_values(["event_timestamp", "written_at"], kind="stable")
            old = rows["source"].str.startswith(_entity(task, "")) & (
                rows["event_timestamp"] < pandas.Timestamp(before)
            )
            last = ~rows[old].duplicated("source", keep="last")
            going = old & ~last.reindex(rows.index, fill_value=False)
            if going.any():
                _write_parquet(rows[~going], self._history / f"{new_id()}.parquet")
                for file in files:
                    file.unlink()
            return int(going.sum())

    def _open(self) -> Any:
        import feast

        from storage.features.definitions import definitions

        configuration = self._path / "feature_store.yaml"
        if not configuration.exists() or configuration.read_text("utf-8") != _CONFIGURATION:
            configuration.write_text(_CONFIGURATION, "utf-8")
        if not any(self._history.glob("*.parquet")):
            # Reading a history of no file at all would fail.
            _write_parquet(_frame("", []), self._history / f"{new_id()}.parquet")
        store = feast.FeatureStore(repo_path=str(self._path))
        store.apply(definitions(self._history.resolve()))
        return store

    def _merge(self) -> None:
        """Make one file of the history: each write adds one.

        Of two rows of one moment, the one written later stays: it knows of what came late.
        """
        files = sorted(self._history.glob("*.parquet"))
        if len(files) < 2:
            return
        import pandas

        rows = pandas.concat([pandas.read_parquet(file) for file in files], ignore_index=True)
        rows = rows.sort_values("written_at", kind="stable")
        rows = rows.drop_duplicates(["source", "event_timestamp"], keep="last", ignore_index=True)
        # The merged file is there before the others go: a crash in between leaves rows twice,
        # and the next merge drops them.
        _write_parquet(rows, self._history / f"{new_id()}.parquet")
        for file in files:
            file.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out of the registry and of the files of the history."""
        with (self._path / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _entity(task: str, source: str) -> str:
    # A source may send to several tasks, and each corrects it by itself.
    return f"{task}\x1f{source}"


def _frame(task: str, rows: Sequence[SourceHistory]) -> DataFrame:
    import pandas

    columns = {
        "source": pandas.array([_entity(task, row.source) for row in rows], dtype=object),
        "samples": pandas.array([row.samples for row in rows], dtype="int64"),
        "mean_confidence": pandas.array([row.mean_confidence for row in rows], dtype="float64"),
        "expert_labels": pandas.array([row.expert_labels for row in rows], dtype="int64"),
        "corrections": pandas.array([row.corrections for row in rows], dtype="int64"),
        "correction_rate": pandas.array([row.correction_rate for row in rows], dtype="float64"),
        "event_timestamp": pandas.to_datetime([row.latest for row in rows], utc=True).as_unit("us"),
        "written_at": pandas.to_datetime([utc_now()] * len(rows), utc=True).as_unit("us"),
    }
    return pandas.DataFrame(columns)


def _write_parquet(frame: DataFrame, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("source", pa.string()),
            ("samples", pa.int64()),
            ("mean_confidence", pa.float64()),
            ("expert_labels", pa.int64()),
            ("corrections", pa.int64()),
            ("correction_rate", pa.float64()),
            ("event_timestamp", pa.timestamp("us", tz="UTC")),
            ("written_at", pa.timestamp("us", tz="UTC")),
        ]
    )
    # Beside the folder first: readers take every file in it.
    draft = file.parent.parent / f"{file.name}.draft"
    pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), draft)
    os.replace(draft, file)


@contextmanager
def _feast_alone() -> Iterator[None]:
    """Import Feast without what it brings along.

    Its import of torch fails, which it allows for: torch would only serve its tensors, and costs a
    worker a second and 300 MB. The switch it sets for prometheus_client, which would turn this
    process' own metrics into files, is taken back.
    """
    switch = "PROMETHEUS_MULTIPROC_DIR"
    before = os.environ.get(switch)
    hidden = "feast" not in sys.modules and "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        with _unchecked():
            import feast  # noqa: F401

        yield
    finally:
        if hidden:
            del sys.modules["torch"]
        if before is None:
            os.environ.pop(switch, None)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Import Feast as it is written.

    It has typeguard rewrite its classes, so that they check the type of each argument: five seconds
    of a processor, three quarters of the import.
    """
    if "feast" in sys.modules or find_spec("typeguard") is None:
        yield
        return
    typeguard: Any = import_module("typeguard")
    rewrite = typeguard.typechecked
    typeguard.typechecked = lambda target: target
    try:
        yield
    finally:
        typeguard.typechecked = rewrite


@contextmanager
def _failures_named() -> Iterator[None]:
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"the feature store did not answer: {error}") from error
