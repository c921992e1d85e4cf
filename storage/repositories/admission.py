"""Which events may still be taken in: none that is too old to be kept, and none of what was erased.

A redelivery, a replay or what waited somewhere must not bring back what was removed, nor count it
twice.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import select

from flywheel.contracts.events import (
    Event,
    LabelRecorded,
    LabelSettled,
    ReviewRequested,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.labels import AUTOMATIC
from flywheel.retention.ports import OF_REVIEW, Kind
from storage.repositories import removal
from storage.repositories.draws import SqlDrawSalts
from storage.tables.columns import table_of
from storage.tables.retention import ClosedRow, ErasedSampleRow, ErasedUserRow
from storage.work import Work, arrived

_closed = table_of(ClosedRow)
erased_samples = table_of(ErasedSampleRow)
erased_users = table_of(ErasedUserRow)

E = TypeVar("E", bound=Event)
_Shown = TrafficRecorded | ReviewRequested
Named = tuple[str, str]  # task and sample, or task and user


class Digests:
    """Salted hashes of the samples and users that were erased: of what was there nothing else may
    be known."""

    def __init__(self, salt: str) -> None:
        self._key = bytes.fromhex(salt)

    @classmethod
    def of(cls, work: Work) -> Digests:
        """Those of a database."""
        return cls(SqlDrawSalts(work).erasure())

    def sample(self, task: str, sample_id: str) -> str:
        """A sample's."""
        return self._digest("sample", task, sample_id)

    def user(self, task: str, unit: str) -> str:
        """A user's."""
        return self._digest("user", task, unit)

    def _digest(self, *parts: str) -> str:
        said = "\x1f".join(parts).encode()
        return hashlib.blake2b(said, digest_size=32, key=self._key).hexdigest()


def admitted(work: Work, events: Sequence[E], kinds: Sequence[Kind]) -> list[E]:
    """Those of ``events`` that may be taken in; of these ``kinds`` none that is older than what is
    kept."""
    closed = _closings(work, {event.task for event in events}, kinds)
    young = [event for event in events if not _too_old(event, closed)] if closed else list(events)
    return _not_erased(work, young) if young else []


def wanted(work: Work, events: Sequence[E], kinds: Sequence[Kind]) -> list[E]:
    """Those of ``events`` that would be taken in; changes nothing."""
    closed = _closings(work, {event.task for event in events}, kinds)
    young = [event for event in events if not _too_old(event, closed)]
    erased, late = _erased(work, young)
    return [event for event in young if _named(event) not in erased and _named(event) not in late]


def _closings(
    work: Work, tasks: Iterable[str], kinds: Sequence[Kind]
) -> dict[str, dict[str, datetime]]:
    rows = work.rows(
        select(_closed).where(_closed.c.task.in_(sorted(tasks)), _closed.c.kind.in_(kinds))
    )
    closed: dict[str, dict[str, datetime]] = defaultdict(dict)
    for row in rows:
        closed[row.task][row.kind] = row.before
    return dict(closed)


def _too_old(event: Event, closed: Mapping[str, Mapping[str, datetime]]) -> bool:
    of_task = closed.get(event.task, {})
    moments = [of_task[kind] for kind in of_task if kind in _kinds_of(event)]
    return bool(moments) and arrived(event.occurred_at) < max(moments)


def _kinds_of(event: Event) -> tuple[Kind, ...]:
    """Kinds of which something may have been removed that came of such an event: a labelled sample
    goes whole. Whether a sample was labelled, and by whom, nobody knows once it is gone; what is
    kept longer is there already."""
    if isinstance(event, TrafficRecorded | ShadowRecorded):
        return ("traffic", "automatic", "labelled", "evidence")
    if isinstance(event, ReviewRequested):
        return OF_REVIEW
    if isinstance(event, LabelRecorded) and event.source in AUTOMATIC:
        return ("automatic", "labelled")
    return ("labelled",) if isinstance(event, LabelRecorded | LabelSettled) else ()


def _not_erased(work: Work, events: Sequence[E]) -> list[E]:
    erased, late = _erased(work, events)
    if late:
        _erase_too(work, late)
    refused = {*erased, *late}
    if not refused:
        return list(events)
    # Their images came before the events did; they go, unless another sample shows them.
    shown = [e.content for e in events if isinstance(e, _Shown) and _named(e) in refused]
    removal.leave_images_of(work, shown)
    return [event for event in events if _named(event) not in refused]


def _erased(work: Work, events: Sequence[Event]) -> tuple[set[Named], dict[Named, str]]:
    """Samples of these events that were erased; and those that an erased user had sent before, with
    the erasure."""
    if work.row(select(erased_samples.c.digest).limit(1)) is None and (
        work.row(select(erased_users.c.digest).limit(1)) is None
    ):
        return set(), {}
    digests = Digests.of(work)
    samples = {_named(event) for event in events if sample_of(event)}
    of = {digests.sample(*sample): sample for sample in samples}
    erased = {of[digest] for digest in known_samples(work, of)}
    sent = [event for event in events if isinstance(event, TrafficRecorded) and event.sender]
    users = {(event.task, event.sender): digests.user(event.task, event.sender) for event in sent}
    until = known_users(work, users.values())
    late: dict[Named, str] = {}
    for event in sent if until else ():
        known = until.get(users[event.task, event.sender])
        if known is not None and event.occurred_at <= known[0] and _named(event) not in erased:
            late[_named(event)] = known[1]
    return erased, late


def _erase_too(work: Work, late: Mapping[Named, str]) -> None:
    """Samples of an erased user that were on their way: what came of them before goes as well."""
    digests = Digests.of(work)
    of_task: dict[str, list[str]] = defaultdict(list)
    for task, sample_id in late:
        of_task[task].append(sample_id)
    rows = [
        {"digest": digests.sample(task, sample_id), "erasure_id": erasure_id}
        for (task, sample_id), erasure_id in late.items()
    ]
    work.add(erased_samples, rows, ["digest"])
    for task, sample_ids in sorted(of_task.items()):
        removal.hold(work, task, sample_ids)
        removal.whole_samples(work, task, sample_ids)


def _named(event: Event) -> Named:
    return event.task, sample_of(event) or ""


def sample_of(event: Event) -> str | None:
    """The sample that an event is about, if it is about one."""
    found = getattr(event, "sample_id", None)
    return None if found is None else str(found)


def known_samples(work: Work, digests: Iterable[str]) -> set[str]:
    """Those of these hashes that are of an erased sample."""
    found: set[str] = set()
    for part in work.chunks(digests):
        rows = work.rows(select(erased_samples.c.digest).where(erased_samples.c.digest.in_(part)))
        found.update(row.digest for row in rows)
    return found


def known_users(work: Work, digests: Iterable[str]) -> dict[str, tuple[datetime, str]]:
    """Hash of an erased user → until when what they sent is erased, and by which erasure."""
    found: dict[str, tuple[datetime, str]] = {}
    for part in work.chunks(digests):
        rows = work.rows(select(erased_users).where(erased_users.c.digest.in_(part)))
        found |= {row.digest: (row.until, row.erasure_id) for row in rows}
    return found
