"""Sessions of the console that were ended before their time."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select

from storage.tables.columns import table_of
from storage.tables.console import EndedSessionRow
from storage.work import Work

_ended = table_of(EndedSessionRow)


class SqlEndedSessions:
    """``console.ports.EndedSessions``, for every replica of the console."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def end(self, session: str, expires: datetime, now: datetime) -> None:
        """Remember a session as ended; forget those whose tokens have run out."""
        self._work.add(_ended, [{"session": session, "expires": expires}], ["session"])
        self._work.run(delete(_ended).where(_ended.c.expires < now))

    def ended(self, session: str) -> bool:
        return (
            self._work.row(select(_ended.c.session).where(_ended.c.session == session)) is not None
        )
