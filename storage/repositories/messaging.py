"""The outbox: events leave with the transaction that made them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import bindparam, delete, select, update

from flywheel.contracts.codec import Record, encode
from flywheel.contracts.events import Event
from storage.tables.columns import table_of
from storage.tables.messaging import OutboxRow
from storage.work import Work

_outbox = table_of(OutboxRow)
_Headers = tuple[tuple[str, bytes], ...]
_headers = msgspec.json.Decoder(_Headers)
_KEPT_AFTER_SENDING = timedelta(days=1)
# Asked again and again, so made once.
_UNSENT = (
    select(_outbox)
    .where(_outbox.c.owner == bindparam("of"), _outbox.c.sent_at.is_(None))
    .order_by(_outbox.c.id)
    .limit(bindparam("most"))
)


class SqlOutbox:
    """``contracts.publishing.Outbox``: events leave with the transaction, or not at all."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def add(self, events: Sequence[Event]) -> None:
        """Store the events, in order."""
        if not events:
            return
        if not self._work.owner:
            raise ValueError("open the transaction with an owner, whose relay sends these events")
        rows = []
        for event in events:
            record = encode(event)
            rows.append(
                {
                    "owner": self._work.owner,
                    "topic": record.topic,
                    "key": record.key,
                    "value": record.value,
                    "headers": msgspec.json.encode(record.headers),
                }
            )
        self._work.connection.execute(_outbox.insert(), rows)


def unsent(work: Work, owner: str, limit: int) -> list[tuple[int, Record]]:
    """The oldest events of an owner that no relay has sent."""
    rows = work.connection.execute(_UNSENT, {"of": owner, "most": limit})
    return [
        (r.id, Record(r.topic, bytes(r.key), bytes(r.value), _headers.decode(r.headers)))
        for r in rows
    ]


def mark_sent(work: Work, owner: str, ids: Sequence[int], now: datetime) -> None:
    """Mark events as sent, and drop those sent long ago: the log has them."""
    for start in range(0, len(ids), 1000):
        part = ids[start : start + 1000]
        work.run(update(_outbox).where(_outbox.c.id.in_(part)).values(sent_at=now))
    old = now - _KEPT_AFTER_SENDING
    work.run(delete(_outbox).where(_outbox.c.owner == owner, _outbox.c.sent_at < old))
