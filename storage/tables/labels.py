"""Samples and labels; written by the label agent."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, Text, false
from sqlmodel import Field, SQLModel

from storage.tables.columns import UtcDateTime


class TrafficRow(SQLModel, table=True):
    """One TrafficRecorded. Rows are only ever added; ``seq`` is the task's clock when it was.

    ``text`` is the input for what only reads text; ``messages`` the input itself, as JSON, where it
    is more than that. ``unit`` is whose it is: the event's user, or unit where it names none.
    """

    __tablename__ = "traffic"
    __table_args__: ClassVar[Any] = (
        Index("ix_traffic_sample", "sample_id"),
        Index("ix_traffic_task_time", "task", "occurred_at"),
    )

    event_id: str = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger)
    task: str
    sample_id: str
    text: str = Field(sa_type=Text)
    messages: str | None = Field(default=None, sa_type=Text)
    origin: str
    source: str
    unit: str
    release: str | None = None
    arm: str | None = None
    rollout_id: str | None = None
    output: str | None = None
    confidence: float | None = None
    latency_ms: float
    status: int
    error: str | None = Field(default=None, sa_type=Text)
    cached: bool
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class LabelRow(SQLModel, table=True):
    """One LabelRecorded or LabelSettled. Rows are only ever added.

    ``settles`` marks those that may decide the sample's label: LabelSettled (``value`` None
    withdraws, or says that the sample has none: ``unlabelable``), and LabelRecorded of a source
    that settles alone. ``rank`` is its source's.
    """

    __tablename__ = "labels"
    __table_args__: ClassVar[Any] = (
        Index("ix_labels_sample", "sample_id"),
        Index("ix_labels_task_seq", "task", "seq"),
    )

    event_id: str = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger)
    task: str
    sample_id: str
    value: str | None = None
    source: str
    rank: int
    settles: bool
    annotators: list[str] = Field(sa_type=JSON)
    agreement: float
    inclusion_probability: float
    audit: bool
    confidence: float | None = None
    release: str | None = None
    reason: str = Field(sa_type=Text)
    split: str | None = None
    unlabelable: bool = Field(sa_column_kwargs={"server_default": false()})
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class SettledLabelRow(SQLModel, table=True):
    """The label that counts for a sample now: worked out from the two tables above whenever
    either gets a row for the sample, so that it can be counted without working it out again.

    ``traffic_id`` is the event that gave the sample its text, ``sent_by`` and ``answered`` its
    source and output (in the label's own words where they say the same). ``seq`` is the tick at
    which any of it last changed.
    """

    __tablename__ = "settled_labels"
    __table_args__: ClassVar[Any] = (
        Index("ix_settled_labels_seq", "task", "seq"),
        Index("ix_settled_labels_time", "task", "occurred_at"),
    )

    task: str = Field(primary_key=True)
    sample_id: str = Field(primary_key=True)
    event_id: str
    traffic_id: str
    seq: int = Field(sa_type=BigInteger)
    value: str
    source: str
    annotators: list[str] = Field(sa_type=JSON)
    split: str | None = None
    inclusion_probability: float
    audit: bool
    sent_by: str
    answered: str | None = None
    through_gateway: bool
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class LabelClockRow(SQLModel, table=True):
    """A task's clock: one tick per batch of samples or labels that was committed.

    ``settled_at`` is the tick of the latest change to ``settled_labels``.
    """

    __tablename__ = "label_clocks"

    task: str = Field(primary_key=True)
    ticks: int = Field(sa_type=BigInteger)
    settled_at: int | None = Field(default=None, sa_type=BigInteger)


class TrafficTotalRow(SQLModel, table=True):
    """How many requests came through the gateway for a release (empty: none answered), how many of
    them failed, and when the first and the last came."""

    __tablename__ = "traffic_totals"

    task: str = Field(primary_key=True)
    release: str = Field(primary_key=True)
    requests: int = Field(sa_type=BigInteger)
    failed: int = Field(sa_type=BigInteger)
    first: datetime = Field(sa_type=UtcDateTime)
    last: datetime = Field(sa_type=UtcDateTime)


class TrafficBucketRow(SQLModel, table=True):
    """Requests through the gateway in the ``size`` seconds from ``start`` on (since 1970). Of each
    size only the newest buckets are kept (``contracts.traffic_series``)."""

    __tablename__ = "traffic_buckets"

    task: str = Field(primary_key=True)
    size: int = Field(primary_key=True)
    start: int = Field(primary_key=True, sa_type=BigInteger)
    requests: int = Field(sa_type=BigInteger)
    challenger: int = Field(sa_type=BigInteger)
    failed: int = Field(sa_type=BigInteger)


class SampleTotalRow(SQLModel, table=True):
    """How many samples came through the gateway: each is counted once."""

    __tablename__ = "sample_totals"

    task: str = Field(primary_key=True)
    samples: int = Field(sa_type=BigInteger)


class WaitingTotalRow(SQLModel, table=True):
    """How many samples were labelled and never recorded: their labels wait for them."""

    __tablename__ = "waiting_totals"

    task: str = Field(primary_key=True)
    samples: int = Field(sa_type=BigInteger)


class SettledTotalRow(SQLModel, table=True):
    """How many samples have a settled label of this source and part (empty: none), and whether
    they came through the gateway."""

    __tablename__ = "settled_totals"

    task: str = Field(primary_key=True)
    source: str = Field(primary_key=True)
    split: str = Field(primary_key=True)
    through_gateway: bool = Field(primary_key=True)
    samples: int = Field(sa_type=BigInteger)


class SettledValueRow(SQLModel, table=True):
    """How many samples of a source and part have this settled label; a text longer than a label may
    be is not counted."""

    __tablename__ = "settled_values"

    task: str = Field(primary_key=True)
    value: str = Field(primary_key=True)
    source: str = Field(primary_key=True)
    split: str = Field(primary_key=True)
    samples: int = Field(sa_type=BigInteger)


class NewLabelTotalRow(SQLModel, table=True):
    """How many settled labels of a source and part changed after a watermark: that of the newest
    dataset when they were last counted."""

    __tablename__ = "new_label_totals"

    task: str = Field(primary_key=True)
    watermark: str = Field(primary_key=True)
    source: str = Field(primary_key=True)
    split: str = Field(primary_key=True)
    samples: int = Field(sa_type=BigInteger)


class SourceTotalRow(SQLModel, table=True):
    """What a source sent and how often experts corrected what it was answered. ``confidences`` of
    its samples have one, which add up to ``confidence``, in billionths: whole numbers come to the
    same in any order."""

    __tablename__ = "source_totals"

    task: str = Field(primary_key=True)
    source: str = Field(primary_key=True)
    samples: int = Field(sa_type=BigInteger)
    confidences: int = Field(sa_type=BigInteger)
    confidence: int = Field(sa_type=BigInteger)
    experts: int = Field(sa_type=BigInteger)
    corrections: int = Field(sa_type=BigInteger)
    latest: datetime = Field(sa_type=UtcDateTime)
