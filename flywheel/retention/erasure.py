"""A sample's or a user's data, removed on request: what is recorded of it, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

ErasureKind = Literal["sample", "user"]
Sample = tuple[str, str]  # task, sample id
# Samples that one transaction removes: few, so that the write lock is held for milliseconds.
AT_ONCE = 50


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """That data was erased: who asked and why, and what went. ``subject`` stands for whose it was
    by a salted hash. ``counts`` are rows by table, and files; ``holds`` names what still has it:
    dataset versions, releases, topics."""

    erasure_id: str
    at: datetime
    by: str
    why: str
    kind: ErasureKind
    subject: str
    task: str | None = None
    finished_at: datetime | None = None
    counts: dict[str, int] = {}
    holds: dict[str, Any] = {}


class Erasures(Protocol):
    """Written by whoever erases. Each transaction leaves a sample whole or gone."""

    def samples_of(self, unit: str, tasks_: Collection[str]) -> list[Sample]:
        """What a user, by the name that the client gave, sent to these tasks."""
        ...

    def begin(self, erasure: Erasure) -> None:
        """Record that an erasure begins."""
        ...

    def refuse_samples(self, samples: Sequence[Sample], erasure_id: str) -> None:
        """Take in nothing of these samples any more, however late it comes."""
        ...

    def refuse_user(self, tasks_: Collection[str], unit: str, until: datetime, of: str) -> None:
        """Take in nothing that this user sent to these tasks before ``until``."""
        ...

    def remove(self, task: str, sample_ids: Sequence[str]) -> Counter[str]:
        """Remove all rows of samples; table → how many."""
        ...

    def remove_units(self, unit: str, tasks_: Collection[str]) -> int:
        """Remove what rollouts have counted by this name; how many rows."""
        ...

    def subject(self, kind: ErasureKind, name: str) -> str:
        """What stands for a name."""
        ...

    def finish(self, erasure: Erasure) -> None:
        """Record how an erasure ended."""
        ...


class ErasingTransaction(Protocol):
    """What one transaction of an erasure offers."""

    @property
    def erasures(self) -> Erasures:
        """What is erased."""
        ...


Transactions = Callable[[], AbstractContextManager[ErasingTransaction]]


def erase_rows(
    transactions: Transactions,
    reading: Transactions,
    erasure: Erasure,
    name: str,
    tasks: Collection[str],
    elsewhere: Sequence[Sample] = (),
) -> tuple[list[Sample], Counter[str]]:
    """Remove from the database what ``name`` is or sent; the samples, and table → rows that went.
    Those of which only the archive, or a gateway, knows that the user sent them are ``elsewhere``.

    What is refused is recorded first, so that nothing comes back, whenever this ends; called again
    it goes on.
    """
    with reading() as tx:
        if erasure.kind == "user":
            samples = list(dict.fromkeys([*tx.erasures.samples_of(name, tasks), *elsewhere]))
        else:
            samples = [(task, name) for task in sorted(tasks)]
    with transactions() as tx:
        tx.erasures.begin(erasure)
        if erasure.kind == "user":
            tx.erasures.refuse_user(tasks, name, erasure.at, erasure.erasure_id)
        tx.erasures.refuse_samples(samples, erasure.erasure_id)
    went: Counter[str] = Counter()
    for task, sample_ids in grouped(samples).items():
        for start in range(0, len(sample_ids), AT_ONCE):
            with transactions() as tx:
                went += tx.erasures.remove(task, sample_ids[start : start + AT_ONCE])
    with transactions() as tx:
        # What came in between the search and the refusal.
        if erasure.kind == "user" and (late := tx.erasures.samples_of(name, tasks)):
            tx.erasures.refuse_samples(late, erasure.erasure_id)
            for task, sample_ids in grouped(late).items():
                went += tx.erasures.remove(task, sample_ids)
            samples += late
        units = tx.erasures.remove_units(name, tasks)
        went.update({"rollout_units": units} if units else {})
    return samples, went


def grouped(samples: Sequence[Sample]) -> Mapping[str, list[str]]:
    """Task → its samples, in the order given."""
    of_task: dict[str, list[str]] = {}
    for task, sample_id in samples:
        of_task.setdefault(task, []).append(sample_id)
    return of_task
