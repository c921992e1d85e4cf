"""What each release answered, and the truth where it is known; written by the evidence agent.

The first two tables hold what happened; the others what it comes to, kept in the same transaction
so that nobody has to read it all again (``repositories.evidence_totals``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, false
from sqlmodel import Field, SQLModel

from storage.tables.columns import UtcDateTime


class ScoreRow(SQLModel, table=True):
    """What a release said of a sample, live or in shadow. The earliest event of each is kept.

    ``challenger_share`` is that of the step in which it was assigned; None: not recorded then."""

    __tablename__ = "evidence_scores"
    __table_args__: ClassVar[Any] = (
        Index("ix_evidence_scores_rollout", "rollout_id", "arm", "live", "occurred_at"),
        Index("ix_evidence_scores_time", "task", "occurred_at"),
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


class RolloutTotalRow(SQLModel, table=True):
    """How many answers an arm of a rollout gave at one share of the challenger's (−1: not
    recorded), live or in shadow, and how many of them failed."""

    __tablename__ = "rollout_totals"

    rollout_id: str = Field(primary_key=True)
    share: float = Field(primary_key=True)
    arm: str = Field(primary_key=True)
    live: bool = Field(primary_key=True)
    requests: int = Field(sa_type=BigInteger)
    failed: int = Field(sa_type=BigInteger)


class RolloutLatencyRow(SQLModel, table=True):
    """How many live answers of an arm took as long as one bucket says, at one share. Failed ones
    and those from the cache, which say nothing of the model, are left out."""

    __tablename__ = "rollout_latencies"

    rollout_id: str = Field(primary_key=True)
    share: float = Field(primary_key=True)
    arm: str = Field(primary_key=True)
    bucket: int = Field(primary_key=True)
    answers: int = Field(sa_type=BigInteger)


class RolloutWindowRow(SQLModel, table=True):
    """What an arm got live since a moment that the rollout looks back to: a step's beginning, or
    the last time that a person let it go on. A window is counted from when this row is there."""

    __tablename__ = "rollout_windows"

    rollout_id: str = Field(primary_key=True)
    since: datetime = Field(primary_key=True, sa_type=UtcDateTime)
    arm: str = Field(primary_key=True)
    requests: int = Field(sa_type=BigInteger)
    units: int = Field(sa_type=BigInteger)
    heaviest: int = Field(sa_type=BigInteger)


class RolloutUnitRow(SQLModel, table=True):
    """Live requests of one unit to an arm in a window."""

    __tablename__ = "rollout_units"

    rollout_id: str = Field(primary_key=True)
    since: datetime = Field(primary_key=True, sa_type=UtcDateTime)
    arm: str = Field(primary_key=True)
    unit: str = Field(primary_key=True)
    requests: int = Field(sa_type=BigInteger)


class JudgedSampleRow(SQLModel, table=True):
    """An audited sample that an arm of a rollout answered, and whether it was right; None where
    the arm did not answer it. ``_live`` is None where it answered in shadow alone.

    ``seq`` is the tick of the task's evidence at which the row last changed. One that is
    ``gone`` was judged once: its label was withdrawn since.
    """

    __tablename__ = "rollout_judged"
    __table_args__: ClassVar[Any] = (Index("ix_rollout_judged_seq", "rollout_id", "seq"),)

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)
    rollout_id: str = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger)
    gone: bool
    champion: bool | None = None
    champion_live: bool | None = None
    challenger: bool | None = None
    challenger_live: bool | None = None
    inclusion_probability: float
    event_id: str
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class AuditedAnswerRow(SQLModel, table=True):
    """An audited sample that a release answered, whatever for. ``label`` None: nobody can label
    it. ``seq`` and ``gone`` as of ``JudgedSampleRow``."""

    __tablename__ = "release_audits"
    __table_args__: ClassVar[Any] = (Index("ix_release_audits_seq", "task", "release", "seq"),)

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)
    release: str = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger)
    gone: bool
    output: str
    confidence: float | None = None
    scores: dict[str, float] = Field(sa_type=JSON)
    label: str | None = None
    correct: bool
    inclusion_probability: float
    event_id: str
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class EvidenceClockRow(SQLModel, table=True):
    """A task's clock of evidence: one tick per batch that changed what was judged."""

    __tablename__ = "evidence_clocks"

    task: str = Field(primary_key=True)
    ticks: int = Field(sa_type=BigInteger)
