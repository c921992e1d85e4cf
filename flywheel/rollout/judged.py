"""What audits have found of a running rollout, read on from look to look."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import overload

import msgspec
import numpy as np

from flywheel.rollout.ports import ArmSummary, Evidence, Judged, Pair, Rollout
from flywheel.statistics.betting import Array

_Place = tuple[datetime, str, str]


class PairsSeen(Sequence[Pair]):
    """The pairs of one moment, in the order they were labelled, with the figures that tests of them
    need: ``d`` in {−1, 0, 1} and the ``inclusion`` probabilities."""

    def __init__(self, pairs: Sequence[Pair], d: Array, inclusion: Array) -> None:
        self._pairs = pairs
        self.d = d
        self.inclusion = inclusion

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        return self._pairs[index]

    def __len__(self) -> int:
        return len(self._pairs)


class JudgedSamples:
    """The audited samples of one rollout. Each ``read`` asks for what has changed alone.

    A caller that keeps it from look to look pays for what is new; one that makes it anew pays for
    all of it once.
    """

    def __init__(self, rollout_id: str) -> None:
        self.rollout_id = rollout_id
        self._seq = 0
        self._known: dict[str, Judged] = {}
        self._live: Counter[tuple[str, bool]] = Counter()
        # Of pairs alone, side by side.
        self._order: list[_Place] = []
        self._pairs: list[Pair] = []
        self._d = array("d")
        self._inclusion = array("d")

    def read(self, evidence: Evidence) -> None:
        """Take in what has changed since the last time."""
        rows = evidence.judged(self.rollout_id, self._seq)
        for row in sorted(rows, key=_place):
            self._seq = max(self._seq, row.seq)
            self._forget(row.sample_id)
            if not row.gone:
                self._add(row)

    @property
    def pairs(self) -> PairsSeen:
        """Audited samples that both arms answered, in the order they were labelled."""
        return PairsSeen(tuple(self._pairs), np.array(self._d), np.array(self._inclusion))

    def with_audits(
        self, champion: ArmSummary, challenger: ArmSummary
    ) -> tuple[ArmSummary, ArmSummary]:
        """(champion, challenger) with how many of their live answers were audited, and right."""
        return self._audited("champion", champion), self._audited("challenger", challenger)

    def _audited(self, arm: str, summary: ArmSummary) -> ArmSummary:
        right, wrong = self._live[arm, True], self._live[arm, False]
        return msgspec.structs.replace(summary, audited=right + wrong, correct=right)

    def _add(self, row: Judged) -> None:
        self._known[row.sample_id] = row
        self._live.update(_lives(row))
        if row.champion is None or row.challenger is None:
            return
        place = _place(row)
        at = bisect_left(self._order, place)
        self._order.insert(at, place)
        self._pairs.insert(at, _pair(row))
        self._d.insert(at, float(row.challenger) - float(row.champion))
        self._inclusion.insert(at, row.inclusion_probability)

    def _forget(self, sample_id: str) -> None:
        row = self._known.pop(sample_id, None)
        if row is None:
            return
        self._live.subtract(_lives(row))
        if row.champion is None or row.challenger is None:
            return
        at = bisect_left(self._order, _place(row))
        del self._order[at], self._pairs[at], self._d[at], self._inclusion[at]


def _lives(row: Judged) -> list[tuple[str, bool]]:
    lives = (("champion", row.champion_live), ("challenger", row.challenger_live))
    return [(arm, right) for arm, right in lives if right is not None]


def _place(row: Judged) -> _Place:
    return row.labelled_at, row.event_id, row.sample_id


def _pair(row: Judged) -> Pair:
    return Pair(
        sample_id=row.sample_id,
        champion_correct=bool(row.champion),
        challenger_correct=bool(row.challenger),
        inclusion_probability=row.inclusion_probability,
        labelled_at=row.labelled_at,
    )


class RunningJudged:
    """What was judged of each task's running rollout, for readers in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_task: dict[str, JudgedSamples] = {}

    @contextmanager
    def of(self, rollout: Rollout) -> Iterator[JudgedSamples]:
        """The samples of a rollout, for one reader at a time."""
        with self._lock:
            known = self._of_task.get(rollout.task)
            if known is None or known.rollout_id != rollout.rollout_id:
                known = self._of_task[rollout.task] = JudgedSamples(rollout.rollout_id)
            yield known
