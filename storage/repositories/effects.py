"""Which events of the log have left no trace in the database, by the key that each effect has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Column, Table, select, tuple_

from flywheel.contracts.events import Event
from flywheel.retention.ports import Kind
from storage.repositories.admission import wanted
from storage.tables.columns import table_of
from storage.tables.evidence import ScoreRow, TruthRow
from storage.tables.labels import LabelRow, TrafficRow
from storage.tables.review import ReviewEndedRolloutRow, ReviewTaskRow
from storage.work import Work

_traffic = table_of(TrafficRow)
_labels = table_of(LabelRow)
_queued = table_of(ReviewTaskRow)
_ended = table_of(ReviewEndedRolloutRow)
_scores = table_of(ScoreRow)
_truths = table_of(TruthRow)
# Below the limit of bound parameters with the widest key.
_KEYS = 200

Key = tuple[Any, ...]


class SqlEffects:
    """Each method is given keys and returns those that have no row."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def unkept_traffic(self, event_ids: Collection[Key]) -> set[Key]:
        """(event id,) of requests."""
        return self._missing(_traffic, ("event_id",), event_ids)

    def unkept_labels(self, event_ids: Collection[Key]) -> set[Key]:
        """(event id,) of labels and settlements."""
        return self._missing(_labels, ("event_id",), event_ids)

    def unqueued(self, samples: Collection[Key]) -> set[Key]:
        """(task, sample id) of reviews that were asked for."""
        return self._missing(_queued, ("task", "sample_id"), samples)

    def unended(self, rollouts: Collection[Key]) -> set[Key]:
        """(task, rollout id) of rollouts that have ended."""
        return self._missing(_ended, ("task", "rollout_id"), rollouts)

    def unscored(self, answers: Collection[Key]) -> set[Key]:
        """(task, sample id, release, live) of answers that are evidence."""
        return self._missing(_scores, ("task", "sample_id", "release", "live"), answers)

    def unproved(self, words: Collection[Key]) -> set[Key]:
        """(task, sample id, source) of labels that are evidence."""
        return self._missing(_truths, ("task", "sample_id", "source"), words)

    def wanted(self, events: Sequence[Event], kinds: Sequence[Kind]) -> list[Event]:
        """Those that are not too old to be kept among these kinds, and not erased."""
        return wanted(self._work, events, kinds)

    def unknown(self, event_ids: Iterable[str]) -> set[str]:
        """Event ids that no row names."""
        keys = {(event_id,) for event_id in event_ids}
        for table in (_traffic, _labels, _queued):
            keys = self._missing(table, ("event_id",), keys)
        return {key[0] for key in keys}

    def _missing(self, table: Table, columns: Sequence[str], keys: Collection[Key]) -> set[Key]:
        wanted = sorted(set(keys))
        left = set(wanted)
        named: list[Column[Any]] = [table.c[name] for name in columns]
        for start in range(0, len(wanted), _KEYS):
            part = wanted[start : start + _KEYS]
            if len(named) == 1:
                there = named[0].in_([key[0] for key in part])
            else:
                there = tuple_(*named).in_(part)
            left.difference_update(
                tuple(row) for row in self._work.rows(select(*named).where(there))
            )
        return left
