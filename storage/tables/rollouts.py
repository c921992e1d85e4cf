"""Rollouts: the controller's, except commands, which the console or the CLI adds."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, Integer, Text, text
from sqlmodel import Field, SQLModel

from storage.tables.columns import UtcDateTime

_ACTIVE = text("ended_at IS NULL")


class RolloutRow(SQLModel, table=True):
    """The life of one challenger; a task has at most one that has not ended."""

    __tablename__ = "rollouts"
    __table_args__: ClassVar[Any] = (
        Index(
            "uq_rollouts_active",
            "task",
            unique=True,
            sqlite_where=_ACTIVE,
            postgresql_where=_ACTIVE,
        ),
        Index("ix_rollouts_task", "task", "started_at"),
    )

    rollout_id: str = Field(primary_key=True)
    task: str
    champion: str
    challenger: str
    state: str
    step: int
    share: float
    started_at: datetime = Field(sa_type=UtcDateTime)
    step_started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    reason: str = Field(sa_type=Text)
    looks_used: int
    steps: list[float] = Field(sa_type=JSON)
    resume_to: str | None = None
    unready_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    resumed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revision: int


class TransitionRow(SQLModel, table=True):
    """One change of a rollout; rows are only ever added."""

    __tablename__ = "rollout_transitions"
    __table_args__: ClassVar[Any] = (
        Index("ix_rollout_transitions_rollout", "rollout_id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(
        default=None,
        primary_key=True,
        sa_type=BigInteger().with_variant(Integer, "sqlite"),
    )
    rollout_id: str
    at: datetime = Field(sa_type=UtcDateTime)
    state: str
    share: float
    decided_by: str
    reason: str = Field(sa_type=Text)
    evidence: dict[str, Any] = Field(sa_type=JSON)


class ChampionRow(SQLModel, table=True):
    """A release took all traffic of a task at a moment; rows are only ever added."""

    __tablename__ = "champions"
    __table_args__: ClassVar[Any] = (
        Index("ix_champions_task", "task", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(
        default=None,
        primary_key=True,
        sa_type=BigInteger().with_variant(Integer, "sqlite"),
    )
    task: str
    release: str
    since: datetime = Field(sa_type=UtcDateTime)


class ChallengerRow(SQLModel, table=True):
    """A registered release that may become a challenger."""

    __tablename__ = "challengers"
    __table_args__: ClassVar[Any] = (Index("ix_challengers_task", "task"),)

    release: str = Field(primary_key=True)
    task: str
    registered_at: datetime = Field(sa_type=UtcDateTime)
    gate_passed: bool


class TakenChallengerRow(SQLModel, table=True):
    """A release that the controller has dealt with."""

    __tablename__ = "challengers_taken"

    release: str = Field(primary_key=True)


class CommandRow(SQLModel, table=True):
    """What a person asked for: added by the console or the CLI."""

    __tablename__ = "rollout_commands"
    __table_args__: ClassVar[Any] = (Index("ix_rollout_commands_task", "task", "at"),)

    command_id: str = Field(primary_key=True)
    task: str
    kind: str
    who: str
    why: str = Field(sa_type=Text)
    at: datetime = Field(sa_type=UtcDateTime)
    rollout_id: str | None = None
    revision: int | None = None
    release: str | None = None
    override: dict[str, str] | None = Field(default=None, sa_type=JSON)


class CommandOutcomeRow(SQLModel, table=True):
    """How a command went: the controller's, or theirs who refused or withdrew it."""

    __tablename__ = "rollout_command_outcomes"

    command_id: str = Field(primary_key=True)
    outcome: str = Field(sa_type=Text)
    at: datetime = Field(sa_type=UtcDateTime)
