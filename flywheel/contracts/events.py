"""The events of the loop, frozen and versioned, and the one table of event → topic → key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from flywheel.contracts.release import Override
from flywheel.contracts.split import RolloutState, TrafficSplit

Arm = Literal["champion", "challenger"]
Origin = Literal["gateway", "ingest"]
LabelSource = Literal["expert", "auto", "rule", "model", "user", "outcome", "seed"]
Split = Literal["train", "holdout"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every event carries. ``event_id`` is a UUIDv7; ``occurred_at`` is UTC."""

    event_id: str
    occurred_at: datetime
    task: str


class TrafficRecorded(Event, frozen=True, kw_only=True):
    """One request as it was served (or as it failed), or one ingested sample (``origin``).

    ``scores`` maps each label to a probability as the release reported it (already calibrated by
    the release's own temperature); ``confidence`` is the largest. ``unit`` is what assignment is
    sticky by. ``arm`` and ``rollout_id`` are None outside a rollout and for ingested samples.
    """

    sample_id: str
    text: str
    origin: Origin = "gateway"
    source: str = "anonymous"
    unit: str = ""
    release: str | None = None
    arm: Arm | None = None
    rollout_id: str | None = None
    output: str | None = None
    scores: dict[str, float] = {}
    confidence: float | None = None
    latency_ms: float = 0.0
    status: int = 200
    error: str | None = None
    cached: bool = False
    tokens_in: int = 0
    tokens_out: int = 0


class ShadowRecorded(Event, frozen=True, kw_only=True):
    """What the other arm of a running rollout would have answered; the caller never saw it."""

    sample_id: str
    release: str
    arm: Arm
    rollout_id: str
    output: str | None = None
    scores: dict[str, float] = {}
    confidence: float | None = None
    latency_ms: float = 0.0
    error: str | None = None


class LabelRecorded(Event, frozen=True, kw_only=True):
    """One label given to one sample by one source; not yet necessarily the settled one.

    ``inclusion_probability`` is the chance with which this sample was chosen to be labelled by
    this source. ``audit`` marks a choice that was uniformly random, whatever the model said.
    """

    sample_id: str
    value: str
    source: LabelSource
    annotator: str
    inclusion_probability: float = 1.0
    audit: bool = False
    confidence: float | None = None
    release: str | None = None
    reason: str = ""
    split: Split | None = None


class ReviewRequested(Event, frozen=True, kw_only=True):
    """A sample that an expert should label, why, and how urgently (higher first, 0–100)."""

    sample_id: str
    text: str
    reason: str
    priority: float
    inclusion_probability: float
    audit: bool
    release: str | None = None
    prediction: str | None = None
    scores: dict[str, float] = {}
    confidence: float | None = None
    rollout_id: str | None = None
    source: str = "anonymous"


class LabelSettled(Event, frozen=True, kw_only=True):
    """The review queue's agreed label. ``value`` None withdraws an earlier settlement (undo)."""

    sample_id: str
    value: str | None
    annotators: tuple[str, ...]
    agreement: float
    inclusion_probability: float
    audit: bool
    reason: str = ""


class DatasetVersioned(Event, frozen=True, kw_only=True):
    """A new immutable dataset: its version, where git and DVC hold it, and what it counts."""

    version: str
    parent: str | None
    git_commit: str
    dvc_hash: str
    watermark: str
    expert_labels: int
    auto_labels: int
    holdout_labels: int


class ReleaseRegistered(Event, frozen=True, kw_only=True):
    """A release entered the registry, through the gate or past it by a recorded override."""

    release: str
    dataset_version: str
    parent: str | None
    path: str
    accuracy: float
    gate_passed: bool
    gate_reason: str
    override: Override | None = None


class RolloutChanged(Event, frozen=True, kw_only=True):
    """A transition of a rollout, or the first release taking all traffic; carries the split.

    ``challenger`` names the release that was tried also where the split no longer does.
    """

    rollout_id: str
    state: RolloutState
    split: TrafficSplit
    decided_by: str
    reason: str
    step: int = 0
    challenger: str | None = None


class DeadLettered(Event, frozen=True, kw_only=True):
    """A record that an agent could not use: its exact bytes, where it was, and why."""

    source_topic: str
    partition: int
    offset: int
    group: str
    code: str
    reason: str
    key: bytes | None
    value: bytes
    headers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class EventSpec:
    """Where an event type lives: schema name and major version, topic, and its key."""

    type: type[Event]
    schema: str
    version: int
    topic: str
    key: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is laid out. ``retention_hours`` None keeps for ever; compacted keeps by key."""

    name: str
    partitions: int
    retention_hours: int | None
    compacted: bool = False


def _sample(event: Any) -> str:
    return str(event.sample_id)


def _task(event: Any) -> str:
    return str(event.task)


def _origin(event: DeadLettered) -> str:
    return f"{event.source_topic}/{event.partition}/{event.offset}"


EVENTS: tuple[EventSpec, ...] = (
    EventSpec(TrafficRecorded, "TrafficRecorded", 1, "flywheel.traffic", _sample),
    EventSpec(ShadowRecorded, "ShadowRecorded", 1, "flywheel.traffic", _sample),
    EventSpec(LabelRecorded, "LabelRecorded", 1, "flywheel.labels", _sample),
    EventSpec(ReviewRequested, "ReviewRequested", 1, "flywheel.review", _sample),
    EventSpec(LabelSettled, "LabelSettled", 1, "flywheel.settled", _sample),
    EventSpec(DatasetVersioned, "DatasetVersioned", 1, "flywheel.datasets", _task),
    EventSpec(ReleaseRegistered, "ReleaseRegistered", 1, "flywheel.releases", _task),
    EventSpec(RolloutChanged, "RolloutChanged", 1, "flywheel.rollouts", _task),
    EventSpec(DeadLettered, "DeadLettered", 1, "flywheel.dead-letters", _origin),
)

TOPICS: tuple[TopicSpec, ...] = (
    TopicSpec("flywheel.traffic", 4, 24 * 14),
    TopicSpec("flywheel.labels", 4, None),
    TopicSpec("flywheel.review", 4, 24 * 30),
    TopicSpec("flywheel.settled", 4, None),
    TopicSpec("flywheel.datasets", 1, None),
    TopicSpec("flywheel.releases", 1, None),
    TopicSpec("flywheel.rollouts", 1, None, compacted=True),
    TopicSpec("flywheel.dead-letters", 1, 24 * 90),
)
