"""Dataset versions, releases and turns: the trainer's, except turns that people ask for."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, Text
from sqlmodel import Field, SQLModel

from storage.tables.columns import UtcDateTime


class DatasetRow(SQLModel, table=True):
    """One dataset version."""

    __tablename__ = "datasets"
    __table_args__: ClassVar[Any] = (Index("ix_datasets_task", "task", "occurred_at"),)

    task: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    event_id: str
    parent: str | None = None
    git_commit: str
    dvc_hash: str
    watermark: str
    expert_labels: int
    auto_labels: int
    seed_labels: int = Field(sa_column_kwargs={"server_default": "0"})
    holdout_labels: int
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class ReleaseRow(SQLModel, table=True):
    """One registered release with its lineage."""

    __tablename__ = "releases"
    __table_args__: ClassVar[Any] = (Index("ix_releases_task", "task", "created_at"),)

    release: str = Field(primary_key=True)
    task: str
    dataset_version: str
    parent: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)
    git_commit: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    size_bytes: int = Field(sa_type=BigInteger)
    expert_labels: int
    auto_labels: int
    seed_labels: int = Field(sa_column_kwargs={"server_default": "0"})
    auto_label_error: float | None = None
    gate_passed: bool
    gate_reason: str = Field(sa_type=Text)
    override: dict[str, str] | None = Field(default=None, sa_type=JSON)
    metrics: dict[str, Any] = Field(sa_type=JSON)
    recipe: dict[str, Any] = Field(sa_type=JSON)
    address: str | None = None
    base_address: str | None = None


class TurnRow(SQLModel, table=True):
    """One run of the pipeline."""

    __tablename__ = "turns"
    __table_args__: ClassVar[Any] = (Index("ix_turns_task", "task", "started_at"),)

    turn_id: str = Field(primary_key=True)
    task: str
    state: str
    stage: str
    reason: str = Field(sa_type=Text)
    started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    dataset_version: str | None = None
    release: str | None = None
    error: str | None = Field(default=None, sa_type=Text)
    seconds: dict[str, float] = Field(sa_type=JSON)


class TurnRequestRow(SQLModel, table=True):
    """Someone asked for a turn: added by the console or the CLI."""

    __tablename__ = "turn_requests"
    __table_args__: ClassVar[Any] = (Index("ix_turn_requests_task", "task", "at"),)

    request_id: str = Field(primary_key=True)
    task: str
    who: str
    why: str = Field(sa_type=Text)
    at: datetime = Field(sa_type=UtcDateTime)
    override: dict[str, str] | None = Field(default=None, sa_type=JSON)
    overrides: dict[str, Any] = Field(sa_type=JSON)


class FinishedRequestRow(SQLModel, table=True):
    """A request that has been dealt with: the trainer's."""

    __tablename__ = "turn_requests_finished"

    request_id: str = Field(primary_key=True)
