"""Reconciliation: event ids in the log beside those whose effects the database holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from flywheel.contracts.codec import decode, event_id_in
from flywheel.contracts.events import ReviewRequested
from flywheel.errors import EventError
from streams.agents import evidence, labels, review
from streams.dead_letters import all_letters
from streams.groups import committed_offsets
from streams.reading import read_topic

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

# Groups whose effects are in the database; triage's are in the log.
GROUPS: Mapping[str, tuple[str, ...]] = {
    module.GROUP: module.TOPICS for module in (review, labels, evidence)
}
_CHUNK = 5000


class SeenIds(Protocol):
    """Event ids in the database."""

    def missing(self, group: str, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` whose effects this group has not stored."""
        ...

    def count(self, group: str) -> int:
        """How many events this group has handled."""
        ...


class Queue(Protocol):
    """The review queue in the database."""

    def unqueued(self, requests: Sequence[tuple[str, str]]) -> list[str]:
        """Those of the requested reviews, as (task, sample id), that are not queued, named."""
        ...


class ReconcileTransaction(Protocol):
    """What reconciliation reads."""

    @property
    def seen(self) -> SeenIds:
        """Events handled before."""
        ...

    @property
    def balance(self) -> Queue:
        """What the effects of events come to."""
        ...


class ReconcileDatabase(Protocol):
    """The database whose contents are compared."""

    def transaction(self, owner: str = "") -> AbstractContextManager[ReconcileTransaction]:
        """One transaction."""
        ...


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One group: distinct events below its committed offsets, and how many of them are where.

    ``waiting`` records are above the committed offsets: not yet handled, no loss. ``lost`` names
    events that the group has passed without an effect, and reviews that were asked for and never
    queued; it must be empty.
    """

    group: str
    events: int
    doubled_in_log: int
    stored: int
    dead_lettered: int
    waiting: int
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All groups."""

    groups: tuple[GroupReport, ...] = field(default_factory=tuple)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost."""
        return not any(group.lost for group in self.groups)


def reconcile(
    kafka: KafkaSettings,
    db: ReconcileDatabase,
    groups: Mapping[str, Sequence[str]] = GROUPS,
) -> Report:
    """Compare the log with the database, group by group, up to each group's committed offsets.

    Reads every topic from its beginning. A group with lag 0 can still have lost events: that is
    what this finds. Raises BrokerError when Kafka does not answer.
    """
    dead: dict[str, set[tuple[str, int, int]]] = {}
    for letter in all_letters(kafka):
        place = (letter.source_topic, letter.partition, letter.offset)
        dead.setdefault(letter.group, set()).add(place)
    committed = {group: committed_offsets(kafka, group) for group in groups}
    # Each topic is read once, however many groups read it.
    logs = {
        topic: _identities(kafka, topic)
        for topic in {t for topics in groups.values() for t in topics}
    }
    reports = [
        _compare(
            db, group, [logs[topic] for topic in topics], committed[group], dead.get(group, set())
        )
        for group, topics in groups.items()
    ]
    return Report(tuple(reports))


_Place = tuple[str, int, int]


class _Entry(NamedTuple):
    """A record of the log. One that is not ``sound`` cannot be decoded; an earlier version, with
    wider bounds, may have handled it all the same. ``review`` is the task and sample that it asks
    a review of, if any."""

    place: _Place
    event_id: str | None
    sound: bool
    review: tuple[str, str] | None = None


def _identities(kafka: KafkaSettings, topic: str) -> list[_Entry]:
    entries: list[_Entry] = []
    for record in read_topic(kafka, topic):
        place = (record.topic, record.partition, record.offset)
        try:
            event = decode(record.value, dict(record.headers))
        except EventError:
            entries.append(_Entry(place, event_id_in(record.value), False))
        else:
            asked = (event.task, event.sample_id) if isinstance(event, ReviewRequested) else None
            entries.append(_Entry(place, event.event_id, True, asked))
    return entries


def _compare(
    db: ReconcileDatabase,
    group: str,
    logs: Sequence[Sequence[_Entry]],
    committed: Mapping[tuple[str, int], int],
    dead: set[_Place],
) -> GroupReport:
    ids: dict[str, tuple[str, str] | None] = {}
    letters: set[str] = set()
    odd: list[str] = []
    passed = waiting = unreadable = 0
    for place, event_id, sound, asked_for in (entry for log in logs for entry in log):
        if place[2] >= committed.get(place[:2], 0):
            waiting += 1
        elif place in dead:
            letters.add(event_id or "/".join(map(str, place)))
        elif event_id is None:
            unreadable += 1
        elif not sound:
            odd.append(event_id)
        else:
            passed += 1
            ids[event_id] = asked_for
    distinct = list(ids)
    lost: list[str] = []
    with db.transaction() as tx:
        for start in range(0, len(distinct), _CHUNK):
            lost += tx.seen.missing(group, distinct[start : start + _CHUNK])
        for start in range(0, len(odd), _CHUNK):
            unreadable += len(tx.seen.missing(group, odd[start : start + _CHUNK]))
        # A double of an event may have been dead-lettered by one delivery alone.
        lost = [event_id for event_id in lost if event_id not in letters]
        without = letters.union(lost)
        unqueued = tx.balance.unqueued(
            [key for event_id, key in ids.items() if key and event_id not in without]
        )
    lost += [f"review never queued: {name}" for name in unqueued]
    lost += ["unreadable record without a dead letter"] * unreadable
    return GroupReport(
        group=group,
        events=len(distinct),
        doubled_in_log=passed - len(distinct),
        stored=len(distinct) - len([e for e in lost if e in ids]),
        dead_lettered=len(letters),
        waiting=waiting,
        lost=tuple(lost),
    )
