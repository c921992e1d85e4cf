"""What each release answered, and the truth where it is known; written by the evidence agent."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, Index, false
from sqlmodel import Field, SQLModel

from storage.tables.columns import UtcDateTime


class ScoreRow(SQLModel, table=True):
    """What a release said of a sample, live or in shadow. The earliest event of each is kept.

    ``challenger_share`` is that of the step in which it was assigned; None: not recorded then."""

    __tablename__ = "evidence_scores"
    __table_args__: ClassVar[Any] = (
        Index("ix_evidence_scores_rollout", "rollout_id", "arm", "live", "occurred_at"),
        Index("ix_evidence_scores_release", "release"),
    )

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)
    release: str = Field(primary_key=True)
    live: bool = Field(primary_key=True)
    event_id: str
    arm: str | None = None
    rollout_id: str | None = None
    challenger_share: float | None = None
    output: str | None = None
    confidence: float | None = None
    scores: dict[str, float] = Field(sa_type=JSON)
    unit: str
    latency_ms: float
    latency_bucket: int
    failed: bool
    cached: bool
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class TruthRow(SQLModel, table=True):
    """The latest word of one trusted source on a sample (``value`` None: withdrawn, or
    ``unlabelable``)."""

    __tablename__ = "evidence_truths"
    __table_args__: ClassVar[Any] = (Index("ix_evidence_truths_audit", "task", "audit"),)

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)
    source: str = Field(primary_key=True)
    rank: int
    event_id: str
    value: str | None = None
    unlabelable: bool = Field(sa_column_kwargs={"server_default": false()})
    audit: bool
    inclusion_probability: float
    occurred_at: datetime = Field(sa_type=UtcDateTime)
