"""How far a consumer group is in a partition, as its database says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Place = tuple[str, int]  # topic, partition
Gap = tuple[int, int]  # the first offset, and the one after the last


@dataclass(frozen=True, slots=True)
class Handled:
    """Records of one partition that a group has handled: all that the log has from ``offsets[0]``
    to below ``end``.

    ``log`` is the id of the topic, which one that is made anew under the same name has not; empty
    where the broker gives none.
    """

    topic: str
    partition: int
    log: str
    offsets: Sequence[int]
    end: int


@dataclass(frozen=True, slots=True)
class Position:
    """All below ``next`` is handled, ``records`` of them, except what ``gaps`` hold: offsets that
    the group was never given."""

    log: str
    next: int
    records: int
    gaps: tuple[Gap, ...] = ()


Positions = Mapping[Place, Position]
# Beyond so many, the two that lie nearest to each other become one.
MOST_GAPS = 50


def moved(known: Position | None, handled: Handled) -> Position:
    """The position after ``handled``; of a log that is another than before, counted anew.

    The same records again change nothing, in whatever order.
    """
    first, end = handled.offsets[0], handled.end
    if known is None or known.log != handled.log:
        known = Position(handled.log, 0, 0)
    gaps = [part for gap in known.gaps for part in _without(gap, first, end)]
    if first > known.next:
        gaps.append((known.next, first))
    new = len(handled.offsets)
    if first < known.next:
        new = sum(
            offset >= known.next or any(begin <= offset < stop for begin, stop in known.gaps)
            for offset in handled.offsets
        )
    return Position(known.log, max(known.next, end), known.records + new, _few(gaps))


def _without(gap: Gap, first: int, end: int) -> list[Gap]:
    begin, stop = gap
    parts = [(begin, min(stop, first)), (max(begin, end), stop)]
    return [(low, high) for low, high in parts if low < high]


def _few(gaps: list[Gap]) -> tuple[Gap, ...]:
    gaps = sorted(gaps)
    while len(gaps) > MOST_GAPS:
        nearest = min(range(1, len(gaps)), key=lambda at: gaps[at][0] - gaps[at - 1][1])
        gaps[nearest - 1 : nearest + 1] = [(gaps[nearest - 1][0], gaps[nearest][1])]
    return tuple(gaps)
