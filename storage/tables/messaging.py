"""Events on their way out, and events that were handled; each process writes its own rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, text
from sqlmodel import Field, SQLModel

from storage.tables.columns import UtcDateTime

_UNSENT = text("sent_at IS NULL")


class OutboxRow(SQLModel, table=True):
    """An encoded event that its owner's relay has to publish, or has published."""

    __tablename__ = "outbox"
    __table_args__: ClassVar[Any] = (
        Index("ix_outbox_unsent", "owner", "id", sqlite_where=_UNSENT, postgresql_where=_UNSENT),
        Index("ix_outbox_sent", "owner", "sent_at"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(
        default=None,
        primary_key=True,
        sa_type=BigInteger().with_variant(Integer, "sqlite"),
    )
    owner: str
    topic: str
    key: bytes = Field(sa_type=LargeBinary)
    value: bytes = Field(sa_type=LargeBinary)
    headers: bytes = Field(sa_type=LargeBinary)
    sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class SeenRow(SQLModel, table=True):
    """An event that a consumer group has handled, for good."""

    __tablename__ = "seen"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)

    consumer: str = Field(primary_key=True)
    event_id: str = Field(primary_key=True)
