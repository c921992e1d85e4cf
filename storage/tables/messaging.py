"""Events on their way out, and how far consumer groups are; each process writes its own rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, Integer, LargeBinary, text
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


class PositionRow(SQLModel, table=True):
    """How far a consumer group is in a partition (``contracts.positions.Position``).

    A row without a topic is left by a version that knew each event it had handled instead: the
    group's positions begin at what is committed.
    """

    __tablename__ = "positions"

    consumer: str = Field(primary_key=True)
    topic: str = Field(primary_key=True)
    partition: int = Field(primary_key=True)
    log: str
    next: int = Field(sa_type=BigInteger)
    records: int = Field(sa_type=BigInteger)
    gaps: list[tuple[int, int]] = Field(sa_type=JSON)
