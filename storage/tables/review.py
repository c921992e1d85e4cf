"""The expert queue: tasks are the review agent's; claims, answers and outcomes the console's.

A sample's id is the client's, who may send one sample to several tasks: every key has the task.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, Integer, Text, UniqueConstraint, false
from sqlmodel import Field, SQLModel

from storage.tables.columns import UtcDateTime


class ReviewTaskRow(SQLModel, table=True):
    """A queued sample. What it asks is the review agent's; ``state`` follows from the other tables,
    and whoever changes those brings it up to date in the same transaction.

    ``messages`` is the input, as JSON, where it is more than ``text``.
    ``precedence`` is minus the priority, so that one plain index holds the order of the queue.
    ``state`` is ``open``, ``answered``, ``settled``, ``unlabelable`` or ``withdrawn``; ``closed``
    that it is one of the last three, so that those who look for one to answer pass none of them.
    """

    __tablename__ = "review_tasks"
    __table_args__: ClassVar[Any] = (
        Index("ix_review_tasks_order", "task", "closed", "precedence", "requested_at", "sample_id"),
        Index("ix_review_tasks_age", "task", "state", "requested_at"),
        Index("ix_review_tasks_release", "release"),
        Index("ix_review_tasks_time", "task", "requested_at"),
        Index("ix_review_tasks_rollout", "rollout_id"),
    )

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)
    event_id: str
    text: str = Field(sa_type=Text)
    messages: str | None = Field(default=None, sa_type=Text)
    reason: str = Field(sa_type=Text)
    precedence: float
    inclusion_probability: float
    audit: bool
    release: str | None = None
    prediction: str | None = None
    scores: dict[str, float] = Field(sa_type=JSON)
    confidence: float | None = None
    rollout_id: str | None = None
    source: str
    tokens_cut: int = Field(sa_column_kwargs={"server_default": "0"})
    closed: bool
    state: str = Field(sa_column_kwargs={"server_default": "open"})
    requested_at: datetime = Field(sa_type=UtcDateTime)


class ReviewWithdrawalRow(SQLModel, table=True):
    """A sample that was settled elsewhere, queued or not: the review agent's."""

    __tablename__ = "review_withdrawals"

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)


class ReviewWordRow(SQLModel, table=True):
    """The latest label of a sample from elsewhere that the review agent has acted on, or chose not
    to: delivered again, after an expert took the sample back, it must not count anew."""

    __tablename__ = "review_words"

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)
    event_id: str
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class ReviewLiftRow(SQLModel, table=True):
    """A release whose samples go first, and how urgently: the review agent's."""

    __tablename__ = "review_lifts"

    task: str = Field(primary_key=True)
    release: str = Field(primary_key=True)
    priority: float


class ReviewEndedRolloutRow(SQLModel, table=True):
    """A rollout that ended, and the priority its audits have since: the review agent's."""

    __tablename__ = "review_ended_rollouts"

    task: str = Field(primary_key=True)
    rollout_id: str = Field(primary_key=True)
    priority: float


class ReviewClaimRow(SQLModel, table=True):
    """An annotator holds a sample until a moment: the console's."""

    __tablename__ = "review_claims"
    __table_args__: ClassVar[Any] = (
        Index("ix_review_claims_annotator", "annotator"),
        Index("ix_review_claims_expiry", "task", "expires_at"),
    )

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)
    annotator: str = Field(primary_key=True)
    expires_at: datetime = Field(sa_type=UtcDateTime)


class ReviewAnswerRow(SQLModel, table=True):
    """An annotator's answer to a sample (without ``value``: it can't be labelled, or they skipped
    it): the console's."""

    __tablename__ = "review_answers"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("task", "sample_id", "annotator", name="uq_review_answers_once"),
        Index("ix_review_answers_annotator", "annotator", "answered_at"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(
        default=None,
        primary_key=True,
        sa_type=BigInteger().with_variant(Integer, "sqlite"),
    )
    task: str
    sample_id: str
    annotator: str
    value: str | None = None
    unlabelable: bool = Field(sa_column_kwargs={"server_default": false()})
    answered_at: datetime = Field(sa_type=UtcDateTime)
    seconds: float


class ReviewPersonRow(SQLModel, table=True):
    """Who has claimed or answered: the name as it was first typed, by what every spelling of it
    shares. The console's."""

    __tablename__ = "review_people"

    person: str = Field(primary_key=True)
    name: str


class ReviewOutcomeRow(SQLModel, table=True):
    """What the experts agreed on a sample (``value`` None: it can't be labelled): the console's."""

    __tablename__ = "review_outcomes"

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)
    event_id: str
    value: str | None = None
    settled_at: datetime = Field(sa_type=UtcDateTime)


class ReviewTotalRow(SQLModel, table=True):
    """How many samples of a task's queue are in a state."""

    __tablename__ = "review_totals"

    task: str = Field(primary_key=True)
    state: str = Field(primary_key=True)
    samples: int = Field(sa_type=BigInteger)
