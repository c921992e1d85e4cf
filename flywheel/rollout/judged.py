"""What audits have found of a running rollout, read on from look to look."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec

from flywheel.rollout.ports import ArmSummary, Evidence, Judged, Pair, Rollout

_Place = tuple[datetime, str, str]


class JudgedSamples:
    """The audited samples of one rollout. Each ``read`` asks for what has changed alone.

    A caller that keeps it from look to look pays for what is new; one that makes it anew pays for
    all of it once.
    """

    def __init__(self, rollout_id: str) -> None:
        self.rollout_id = rollout_id
        self._seq = 0
        self._known: dict[str, Judged] = {}
        self._order: list[_Place] = []
        self._pairs: tuple[Pair, ...] | None = ()

    def read(self, evidence: Evidence) -> None:
        """Take in what has changed since the last time."""
        for row in evidence.judged(self.rollout_id, self._seq):
            self._seq = max(self._seq, row.seq)
            self._forget(row.sample_id)
            if not row.gone:
                self._known[row.sample_id] = row
                if _is_pair(row):
                    insort(self._order, _place(row))
                    self._pairs = None

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Audited samples that both arms answered, in the order they were labelled."""
        if self._pairs is None:
            rows = (self._known[sample_id] for _, _, sample_id in self._order)
            self._pairs = tuple(_pair(row) for row in rows)
        return self._pairs

    def with_audits(self, champion: ArmSummary, challenger: ArmSummary) -> tuple[ArmSummary, ...]:
        """(champion, challenger) with how many of their live answers were audited, and right."""
        lives = (
            [row.champion_live for row in self._known.values()],
            [row.challenger_live for row in self._known.values()],
        )
        return tuple(
            msgspec.structs.replace(
                arm,
                audited=sum(right is not None for right in live),
                correct=sum(right is True for right in live),
            )
            for arm, live in zip((champion, challenger), lives, strict=True)
        )

    def _forget(self, sample_id: str) -> None:
        known = self._known.pop(sample_id, None)
        if known is not None and _is_pair(known):
            del self._order[bisect_left(self._order, _place(known))]
            self._pairs = None


def _is_pair(row: Judged) -> bool:
    return row.champion is not None and row.challenger is not None


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
