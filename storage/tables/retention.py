"""What was removed and why: what it came to, what must not come back, and where it lies now."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, Text
from sqlmodel import Field, SQLModel

from storage.tables.columns import UtcDateTime


class GoneTotalRow(SQLModel, table=True):
    """What rows that were removed came to in one row of a total: ``place`` is its key and
    ``numbers`` the rest, as JSON. ``part`` is the task or rollout that it belongs to.

    A total is what its rows come to and this.
    """

    __tablename__ = "gone_totals"

    total: str = Field(primary_key=True)
    part: str = Field(primary_key=True)
    place: str = Field(primary_key=True)
    numbers: dict[str, Any] = Field(sa_type=JSON)


class ClosedRow(SQLModel, table=True):
    """Events of this kind from before this moment are taken in no longer."""

    __tablename__ = "retention_closed"

    task: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    before: datetime = Field(sa_type=UtcDateTime)


class LeftImageRow(SQLModel, table=True):
    """An image that a removed sample showed: it goes too, unless another shows it."""

    __tablename__ = "retention_images"

    sha256: str = Field(primary_key=True)


class ArchiveFileRow(SQLModel, table=True):
    """A file of the archive: rows of one table, task and day. One that was begun and never
    ``written`` is of a process that was killed."""

    __tablename__ = "archive_files"
    __table_args__: ClassVar[Any] = (Index("ix_archive_files_task", "task", "source", "day"),)

    key: str = Field(primary_key=True)
    task: str
    source: str
    day: str
    rows: int = Field(sa_type=BigInteger)
    bytes: int = Field(sa_type=BigInteger)
    begun_at: datetime = Field(sa_type=UtcDateTime)
    written: bool


class ErasureRow(SQLModel, table=True):
    """That somebody's data was erased: who asked, why, and what went. Whose it was is not kept:
    ``subject`` is a salted hash. ``task`` None: of every task. ``holds`` names what still has it.
    """

    __tablename__ = "erasures"

    erasure_id: str = Field(primary_key=True)
    at: datetime = Field(sa_type=UtcDateTime)
    who: str
    why: str = Field(sa_type=Text)
    kind: str
    subject: str
    task: str | None = None
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    counts: dict[str, int] = Field(sa_type=JSON)
    holds: dict[str, Any] = Field(sa_type=JSON)


class ErasedSampleRow(SQLModel, table=True):
    """A sample that was erased, by a salted hash: its events are taken in no longer."""

    __tablename__ = "erased_samples"

    digest: str = Field(primary_key=True)
    erasure_id: str


class ErasedUserRow(SQLModel, table=True):
    """A user who was erased from a task, by a salted hash: requests of theirs from before
    ``until`` are taken in no longer."""

    __tablename__ = "erased_users"

    digest: str = Field(primary_key=True)
    until: datetime = Field(sa_type=UtcDateTime)
    erasure_id: str


class PrunedReleaseRow(SQLModel, table=True):
    """A release whose bytes are taken away for good; ``done`` once they are."""

    __tablename__ = "pruned_releases"

    release: str = Field(primary_key=True)
    task: str
    at: datetime = Field(sa_type=UtcDateTime)
    why: str = Field(sa_type=Text)
    done: bool
