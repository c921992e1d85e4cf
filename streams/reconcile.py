"""Reconciliation: what groups have passed in the log beside what the database holds of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flywheel.contracts.codec import decode, event_id_in
from flywheel.contracts.events import Event
from flywheel.contracts.positions import Gap, Place, Position
from flywheel.errors import EventError
from flywheel.retention.ports import OF_EVIDENCE, OF_LABELS, OF_REVIEW, Kind
from streams.agents import evidence, labels, review
from streams.agents.protocols import Trace
from streams.dead_letters import all_letters
from streams.groups import committed_offsets
from streams.lag import agent_lag
from streams.logs import topic_logs
from streams.reading import read_parts

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings


class Reader(NamedTuple):
    """A group whose effects are in the database: what it reads, where an effect is found, and what
    kinds of data hold it: what is older than they are kept is not looked for."""

    topics: tuple[str, ...]
    trace: Callable[[Event], Trace | None]
    kinds: tuple[Kind, ...] = ()


# Triage's effects are in the log.
READERS: Mapping[str, Reader] = {
    review.GROUP: Reader(review.TOPICS, review.trace, OF_REVIEW),
    labels.GROUP: Reader(labels.TOPICS, labels.trace, OF_LABELS),
    evidence.GROUP: Reader(evidence.TOPICS, evidence.trace, OF_EVIDENCE),
}
_CHUNK = 5000


class GroupPositions(Protocol):
    """How far groups are, as the database says."""

    def of(self, group: str) -> Mapping[Place, Position]:
        """Where a group is, by topic and partition."""
        ...

    def begun(self, group: str) -> bool:
        """Whether its positions say what it has handled."""
        ...


class ReconcileTransaction(Protocol):
    """What reconciliation reads. ``effects`` has a check for each ``Trace``: given keys, it
    returns those without an effect; ``wanted``, which events are kept at all; and ``unknown``,
    event ids that no row names."""

    @property
    def positions(self) -> GroupPositions:
        """How far groups are."""
        ...

    @property
    def effects(self) -> Any:
        """What events have left behind."""
        ...


class ReconcileDatabase(Protocol):
    """The database whose contents are compared."""

    def transaction(
        self, owner: str = "", *, read_only: bool = False
    ) -> AbstractContextManager[ReconcileTransaction]:
        """One transaction."""
        ...


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One group: the records below its committed offsets, as it counted them (or, where all of the
    log was read, the distinct events in it), and how many of them are where.

    ``waiting`` records are above the committed offsets: not yet handled, no loss. ``read`` were
    looked at one by one. ``lost`` names events that the group has passed without an effect; it
    must be empty.
    """

    group: str
    events: int
    doubled_in_log: int
    stored: int
    dead_lettered: int
    waiting: int
    read: int
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
    readers: Mapping[str, Reader] = READERS,
    *,
    full: bool = False,
) -> Report:
    """Compare the log with the database, group by group, up to each group's committed offsets.

    What a group's positions say it has handled is believed, and what it has passed besides is read
    and looked for: gaps, and whatever is committed beyond. ``full`` believes nothing and reads
    every topic from its beginning. A group with lag 0 can still have lost events: that is what
    this finds. Raises BrokerError when Kafka does not answer.
    """
    # In this order: a position is written before what it allows is committed.
    committed = {group: committed_offsets(kafka, group) for group in readers}
    logs = topic_logs(kafka, {topic for reader in readers.values() for topic in reader.topics})
    waiting = agent_lag(kafka, {group: reader.topics for group, reader in readers.items()})
    dead: dict[str, set[tuple[str, int, int]]] = {}
    for letter in all_letters(kafka):
        record = (letter.source_topic, letter.partition, letter.offset)
        dead.setdefault(letter.group, set()).add(record)
    looks: list[_Look] = []
    for group, reader in readers.items():
        with db.transaction(read_only=True) as tx:
            positions, begun = tx.positions.of(group), tx.positions.begun(group)
        parts: dict[Place, list[Gap]] = {}
        for place, offset in committed[group].items():
            if place[0] in reader.topics:
                known = positions.get(place) if begun else Position(logs[place[0]], offset, 0)
                parts[place] = [(0, offset)] if full else _doubtful(known, logs, place, offset)
        counted = None if full else sum(position.records for position in positions.values())
        looks.append(_Look(db, group, reader, parts, dead.get(group, set()), counted))
    for topic in sorted({topic for reader in readers.values() for topic in reader.topics}):
        _read(kafka, topic, looks)
    return Report(tuple(look.report(waiting[look.group]) for look in looks))


def _doubtful(
    known: Position | None, logs: Mapping[str, str], place: Place, committed: int
) -> list[Gap]:
    """What a group has passed without its position saying so."""
    if known is None or known.log != logs.get(place[0], ""):
        return [(0, committed)]
    beyond = [(known.next, committed)] if known.next < committed else []
    gaps = [(begin, min(stop, committed)) for begin, stop in known.gaps if begin < committed]
    return sorted(gaps + beyond)


def _read(kafka: KafkaSettings, topic: str, looks: Sequence[_Look]) -> None:
    """Read once what any group wants to look at in a topic."""
    wanted: dict[int, list[Gap]] = {}
    for look in looks:
        for (name, partition), parts in look.parts.items():
            if name == topic and parts:
                wanted[partition] = _joined([*wanted.get(partition, ()), *parts])
    if not wanted:
        return
    for record in read_parts(kafka, topic, wanted):
        event: Event | None
        try:
            event = decode(record.value, dict(record.headers))
        except EventError:
            event = None
        for look in looks:
            look.take(record, event)
    for look in looks:
        look.flush()


def _joined(parts: Iterable[Gap]) -> list[Gap]:
    joined: list[Gap] = []
    for begin, stop in sorted(parts):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        elif begin < stop:
            joined.append((begin, stop))
    return joined


class _Look:
    """One group, as records of it are looked at."""

    def __init__(
        self,
        db: ReconcileDatabase,
        group: str,
        reader: Reader,
        parts: Mapping[Place, Sequence[Gap]],
        dead: set[tuple[str, int, int]],
        counted: int | None,
    ) -> None:
        self.group, self.parts = group, parts
        self._db, self._reader, self._dead, self._counted = db, reader, dead, counted
        self._letters: set[str] = set()
        self._seen: set[int] = set()
        self._read = self._passed = 0
        self._lost: dict[str, None] = {}
        self._unreadable = 0
        self._waiting: list[tuple[Event, Trace]] = []
        self._odd: list[str] = []

    def take(self, record: Any, event: Event | None) -> None:
        """Look at a record; ``event`` is None for one that cannot be decoded."""
        spans = self.parts.get((record.topic, record.partition), ())
        if not any(begin <= record.offset < stop for begin, stop in spans):
            return
        self._read += 1
        place = (record.topic, record.partition, record.offset)
        event_id = event.event_id if event is not None else event_id_in(record.value)
        if place in self._dead:
            self._letters.add(event_id or "/".join(map(str, place)))
        elif event_id is None:
            self._unreadable += 1
        elif event is None:
            self._odd.append(event_id)
        else:
            self._passed += 1
            self._seen.add(hash(event_id))
            trace = self._reader.trace(event)
            if trace is not None:
                self._waiting.append((event, trace))
        if len(self._waiting) + len(self._odd) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Ask the database about what was taken."""
        checks: dict[str, set[tuple[Any, ...]]] = {}
        for _, trace in self._waiting:
            checks.setdefault(trace.check, set()).add(trace.key)
        with self._db.transaction(read_only=True) as tx:
            missing = {check: getattr(tx.effects, check)(keys) for check, keys in checks.items()}
            gone = [event for event, trace in self._waiting if trace.key in missing[trace.check]]
            lost = tx.effects.wanted(gone, self._reader.kinds) if gone else []
            # An earlier version, with wider bounds, may have handled what cannot be decoded.
            self._unreadable += len(tx.effects.unknown(self._odd)) if self._odd else 0
        self._lost |= dict.fromkeys(event.event_id for event in lost)
        self._waiting, self._odd = [], []

    def report(self, waiting: int) -> GroupReport:
        """What was found."""
        # A double of an event may have been dead-lettered by one delivery alone.
        lost = [event_id for event_id in self._lost if event_id not in self._letters]
        distinct = len(self._seen)
        dead = len(self._letters) if self._counted is None else len(self._dead)
        events = distinct if self._counted is None else self._counted - dead
        return GroupReport(
            group=self.group,
            events=max(0, events),
            doubled_in_log=self._passed - distinct,
            stored=max(0, events - len(lost)),
            dead_lettered=dead,
            waiting=waiting,
            read=self._read,
            lost=(*lost, *["unreadable record without a dead letter"] * self._unreadable),
        )
