"""How many records of a partition a group has not handled yet: a decision from offsets."""

from __future__ import annotations

from collections.abc import Sequence


def behind(
    end: int | None,
    committed: int | None,
    first: int | None,
    read: int | None,
    position: int | None,
) -> int:
    """Records of one partition that a group has not handled yet.

    ``committed`` is None before the group's first commit: it then reads from ``first``, the oldest
    record that the log still has. ``read`` is the offset of the last record taken, ``position``
    where reading goes on: offsets that are no records, such as the marks of transactions, lie
    between the last record and ``end``.
    """
    if end is None:
        return 0
    start = max(committed or 0, first or 0)
    if position is not None and position >= end and (read is None or read < start):
        return 0
    return max(0, end - start)


def waiting(
    end: int, committed: int | None, first: int, tail: int, records: Sequence[int] | None
) -> int:
    """Records of one partition that a group has not handled, where those that have an offset from
    ``tail`` on are known (None: they are not). Below ``tail``, every offset counts as one, so that
    this may say too many while it is large; it is 0 when all is handled."""
    if records is None:
        return behind(end, committed, first, None, None)
    start = max(committed or 0, first)
    return max(0, tail - start) + sum(offset >= start for offset in records)
