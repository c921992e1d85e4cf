"""What the console remembers of its own."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from storage.tables.columns import UtcDateTime


class EndedSessionRow(SQLModel, table=True):
    """A session that somebody signed out of; kept until its token would have run out."""

    __tablename__ = "console_ended_sessions"

    session: str = Field(primary_key=True)
    expires: datetime = Field(sa_type=UtcDateTime)
