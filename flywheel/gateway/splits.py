"""The current traffic split of every task, followed live and kept over restarts."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog
from prometheus_client import Gauge

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.split import TrafficSplit

_log = structlog.get_logger(__name__)
_share = Gauge("flywheel_gateway_split", "Share of live traffic by arm.", ("task", "arm"))
_decoder = msgspec.json.Decoder(dict[str, TrafficSplit])


class Splits:
    """Thread-safe. ``path`` is the file that holds the last known splits, or None for memory only.
    It begins with what the first readable of ``others`` says, which gateways here wrote, or the
    file itself.

    Reading the rollout log from its beginning replays history. A task whose split is known from
    the file keeps it until ``mark_caught_up`` says that the end is reached, so that a restart
    never serves a release that was replaced long ago.
    """

    def __init__(self, path: Path | None = None, others: Sequence[Path] = ()) -> None:
        self._path, self._others = path, others
        self._lock = threading.Lock()
        self._caught_up = False
        self._replayed: dict[str, TrafficSplit] = {}
        self._current: dict[str, TrafficSplit] = self._restored()
        for split in self._current.values():
            _publish(split)

    def update(self, event: RolloutChanged) -> None:
        """Take in one change, in the order of the log."""
        split = event.split
        with self._lock:
            if not self._caught_up:
                self._replayed[event.task] = split
                return
            self._apply({event.task: split})

    def mark_caught_up(self) -> None:
        """The end of the log is reached: what was replayed last is the truth from now on."""
        with self._lock:
            if not self._caught_up:
                self._caught_up = True
                self._apply(self._replayed)

    def current(self, task: str) -> TrafficSplit | None:
        """The split of a task, or None when none is known yet."""
        return self._current.get(task)

    def problem(self) -> str | None:
        """Why the splits may be out of date (for /healthz), or None."""
        if self._caught_up:
            return None
        return "still reading the rollout log; serving the splits known from before the restart"

    def _apply(self, changes: dict[str, TrafficSplit]) -> None:
        # Readers hold no lock: the mapping is replaced whole.
        self._current = {**self._current, **changes}
        for split in changes.values():
            _publish(split)
        if self._path is not None and changes:
            try:
                _write_atomically(self._path, msgspec.json.encode(self._current))
            except OSError as error:
                _log.warning("splits not saved", path=str(self._path), problem=str(error))

    def _restored(self) -> dict[str, TrafficSplit]:
        own = () if self._path is None else (self._path,)
        for path in (*self._others, *own):
            try:
                return _decoder.decode(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, msgspec.MsgspecError) as error:
                _log.warning("saved splits not usable", path=str(path), problem=str(error))
        return {}


def _publish(split: TrafficSplit) -> None:
    _share.labels(split.task, "challenger").set(split.challenger_share)
    _share.labels(split.task, "champion").set(1.0 - split.challenger_share)


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    os.replace(draft, path)
