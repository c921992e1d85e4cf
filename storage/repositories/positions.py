"""How far consumer groups are, written with what they handle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, delete, or_, select

from flywheel.contracts.positions import Handled, Place, Position, moved
from storage.tables.columns import table_of
from storage.tables.messaging import PositionRow
from storage.work import Work

_positions = table_of(PositionRow)
_KEY = ["consumer", "topic", "partition"]
_has_topic = _positions.c.topic != ""


class SqlPositions:
    """The positions of groups; a place is a topic and a partition."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def of(self, group: str) -> dict[Place, Position]:
        """Where a group is, by place."""
        return {(row.topic, row.partition): _position(row) for row in self._rows(group)}

    def begun(self, group: str) -> bool:
        """Whether the group's positions say what it has handled. False for one whose events an
        earlier version has handled and no worker of this one yet."""
        return self._work.row(_mark(group)) is None

    def begin(self, group: str, committed: Mapping[Place, int], logs: Mapping[str, str]) -> None:
        """Take what an earlier version has handled for all that is committed; ``logs`` are the ids
        of the topics. Of any other group this changes nothing."""
        if self.begun(group):
            return
        self._work.run(delete(_positions).where(_positions.c.consumer == group, ~_has_topic))
        self._put(
            group,
            {
                place: Position(logs.get(place[0], ""), offset, 0)
                for place, offset in committed.items()
            },
        )

    def note(self, group: str, handled: Sequence[Handled]) -> None:
        """The group has handled these; again changes nothing."""
        topics = {one.topic for one in handled}
        known = {
            (row.topic, row.partition): _position(row)
            for row in self._rows(group, sorted(topics), writing=True)
        }
        changed: dict[Place, Position] = {}
        for one in handled:
            place = (one.topic, one.partition)
            position = moved(known.get(place), one)
            if position != known.get(place):
                known[place] = changed[place] = position
        self._put(group, changed)

    def _rows(
        self, group: str, topics: Sequence[str] | None = None, *, writing: bool = False
    ) -> Sequence[Row[Any]]:
        found = select(_positions).where(_positions.c.consumer == group, _has_topic)
        if topics is not None:
            found = found.where(_positions.c.topic.in_(topics))
        if writing and not self._work.sqlite:
            found = found.order_by(_positions.c.topic, _positions.c.partition).with_for_update()
        return self._work.rows(found)

    def _put(self, group: str, positions: Mapping[Place, Position]) -> None:
        rows = [
            {
                "consumer": group,
                "topic": topic,
                "partition": partition,
                "log": position.log,
                "next": position.next,
                "records": position.records,
                "gaps": position.gaps,
            }
            for (topic, partition), position in sorted(positions.items())
        ]
        # Two that write a place's first row at once: the later in the log stays.
        self._work.put(
            _positions,
            rows,
            _KEY,
            lambda new: or_(new["log"] != _positions.c.log, new["next"] >= _positions.c.next),
        )


def _mark(group: str) -> Any:
    return select(_positions.c.consumer).where(_positions.c.consumer == group, ~_has_topic)


def _position(row: Row[Any]) -> Position:
    gaps = tuple((begin, stop) for begin, stop in row.gaps)
    return Position(row.log, row.next, row.records, gaps)
