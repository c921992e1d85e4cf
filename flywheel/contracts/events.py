"""The events of the loop, frozen and versioned, and the one table of event → topic → key.

Earlier versions of an event are read for ever: see ``contracts.upcast``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from flywheel.contracts.artefacts import AddressText
from flywheel.contracts.bounds import (
    Chance,
    Count,
    Id,
    Label,
    Milliseconds,
    Moment,
    Name,
    Priority,
    ReleaseId,
    Score,
    Scores,
    Share,
    Text,
)
from flywheel.contracts.release import KeptRelease, Override
from flywheel.contracts.sample import Content, as_text
from flywheel.contracts.split import RolloutState, TrafficSplit

Arm = Literal["champion", "challenger"]
Origin = Literal["gateway", "ingest"]
LabelSource = Literal["expert", "auto", "rule", "model", "user", "outcome", "seed"]
# Of these a client may tell the gateway.
FeedbackSource = Literal["user", "outcome"]
Split = Literal["train", "holdout"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every event carries. ``event_id`` is a UUIDv7; ``occurred_at`` is UTC."""

    event_id: Id
    occurred_at: Moment
    task: Id


class TrafficRecorded(Event, frozen=True, kw_only=True):
    """One request as it was served (or as it failed), or one ingested sample (``origin``).

    ``scores`` maps each label to a probability as the release reported it (already calibrated by
    the release's own temperature); ``confidence`` is the largest. ``unit`` is what assignment is
    sticky by, ``user`` whom the client named where that is not the unit. ``arm`` and ``rollout_id``
    are None outside a rollout and for ingested samples, and where the champion stood in for an arm
    that failed. ``challenger_share`` is the challenger's share of live traffic when the arm was
    chosen. ``outage`` marks a failure that got through to no model server while none answered
    anyone: it says nothing of the arm. ``abandoned`` marks an answer whose caller was gone before
    it was there: nobody read it, and who repeats the request has another, so it is neither evidence
    nor triaged. ``tokens_cut`` tokens of the text were not read: it is longer than the release
    reads. Of an event without it, made by an earlier version, nobody knows.
    """

    sample_id: Id
    content: Content
    origin: Origin = "gateway"
    source: Name = "anonymous"
    unit: Name = ""
    user: Name = ""
    release: ReleaseId | None = None
    arm: Arm | None = None
    rollout_id: Id | None = None
    challenger_share: Share | None = None
    outage: bool = False
    abandoned: bool = False
    output: Text | None = None
    scores: Scores = {}
    confidence: Score | None = None
    latency_ms: Milliseconds = 0.0
    status: Annotated[int, msgspec.Meta(ge=0, le=999)] = 200
    error: Text | None = None
    cached: bool = False
    tokens_in: Count = 0
    tokens_cut: Count = 0
    tokens_out: Count = 0

    @property
    def sender(self) -> str:
        """Whose it is: the user whom the client named, or what stands for one who is unnamed."""
        return self.user or self.unit

    @property
    def text(self) -> str:
        """The input for what only reads text."""
        return as_text(self.content)


class ShadowRecorded(Event, frozen=True, kw_only=True):
    """What the other arm of a running rollout would have answered; the caller never saw it.

    ``tokens_cut`` is that of this arm's release, which may read longer texts than the other's.
    """

    sample_id: Id
    release: ReleaseId
    arm: Arm
    rollout_id: Id
    challenger_share: Share | None = None
    output: Text | None = None
    scores: Scores = {}
    confidence: Score | None = None
    latency_ms: Milliseconds = 0.0
    error: Text | None = None
    tokens_cut: Count = 0


class LabelRecorded(Event, frozen=True, kw_only=True):
    """One label given to one sample by one source; not yet necessarily the settled one.

    ``inclusion_probability`` is the chance with which this sample was chosen to be labelled by
    this source. ``audit`` marks a choice that was uniformly random, whatever the model said.
    """

    sample_id: Id
    value: Label
    source: LabelSource
    annotator: Name
    inclusion_probability: Chance = 1.0
    audit: bool = False
    confidence: Score | None = None
    release: ReleaseId | None = None
    reason: Text = ""
    split: Split | None = None


class ReviewRequested(Event, frozen=True, kw_only=True):
    """A sample that an expert should label, why, and how urgently (higher first, 0–100).

    ``tokens_cut`` tokens of the text, which the expert sees whole, were not read by the release.
    """

    sample_id: Id
    content: Content
    reason: Text
    priority: Priority
    inclusion_probability: Chance
    audit: bool
    release: ReleaseId | None = None
    prediction: Text | None = None
    scores: Scores = {}
    confidence: Score | None = None
    rollout_id: Id | None = None
    source: Name = "anonymous"
    tokens_cut: Count = 0

    @property
    def text(self) -> str:
        """The input for what only reads text."""
        return as_text(self.content)


class LabelSettled(Event, frozen=True, kw_only=True):
    """The review queue's agreed label.

    ``value`` None withdraws an earlier settlement (undo), unless ``unlabelable``: then experts
    agreed that no answer fits, and the sample stays settled without one. An event of before there
    was such an answer has it False; to a reader of that time both mean that there is no label.
    """

    sample_id: Id
    value: Label | None
    annotators: Annotated[tuple[Name, ...], msgspec.Meta(max_length=10_000)]
    agreement: Score
    inclusion_probability: Chance
    audit: bool
    reason: Text = ""
    unlabelable: bool = False

    @property
    def withdraws(self) -> bool:
        """Whether it takes an earlier settlement back."""
        return self.value is None and not self.unlabelable


class DatasetVersioned(Event, frozen=True, kw_only=True):
    """A new immutable dataset: its version, where git and DVC hold it, and what it counts.

    In an event without ``seed_labels``, of an earlier version, experts' labels include them.
    """

    version: Id
    parent: Name | None
    git_commit: Name
    dvc_hash: Name
    watermark: Name
    expert_labels: Count
    auto_labels: Count
    holdout_labels: Count
    seed_labels: Count = 0


class ReleaseRegistered(Event, frozen=True, kw_only=True):
    """A release entered the registry, through the gate or past it by a recorded override.

    ``address`` and ``base_address`` say where it is kept; of a release made by an earlier version,
    whose event had a path instead, nothing does.
    """

    release: ReleaseId
    dataset_version: Name
    parent: Name | None
    accuracy: Score
    gate_passed: bool
    gate_reason: Text
    override: Override | None = None
    address: AddressText | None = None
    base_address: AddressText | None = None


class RolloutChanged(Event, frozen=True, kw_only=True):
    """A transition of a rollout, or the first release taking all traffic; carries the split.

    ``challenger`` names the release that was tried also where the split no longer does. ``kept``
    says where the releases of the split are kept, as far as that is known.
    """

    rollout_id: Id
    state: RolloutState
    split: TrafficSplit
    decided_by: Text
    reason: Text
    step: Annotated[int, msgspec.Meta(ge=-1, le=10_000)] = 0
    challenger: ReleaseId | None = None
    kept: tuple[KeptRelease, ...] = ()


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """What a record was before its letter was cut: the bytes of its value, their SHA-256, and how
    many of its headers the letter does not carry."""

    value_bytes: Count
    value_sha256: Name
    headers_dropped: Count = 0


class DeadLettered(Event, frozen=True, kw_only=True):
    """A record that an agent could not use: its exact bytes, where it was, and why.

    ``task`` is empty where the record does not say it. A record that no letter can carry whole is
    ``cut``: ``value`` is how it begins, and it cannot be replayed. ``origin`` is the place where
    the record stood first: one that was replayed and failed again has a new place and the same
    origin. ``replayed_at`` is set, in a repetition of the letter without its bytes, once the
    record went back. Letters of earlier versions have their headers in ``headers``, as Latin-1.
    """

    task: Name
    source_topic: Name
    partition: Count
    offset: Count
    group: Name
    code: Name
    reason: Text
    key: bytes | None
    value: bytes | None
    headers: dict[str, str] = {}
    record_headers: tuple[tuple[str, bytes | None], ...] | None = None
    cut: Cut | None = None
    origin: Name = ""
    replayed_at: Moment | None = None


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
    """How a topic is laid out. ``retention_hours`` None keeps for ever; compacted keeps by key.

    ``max_bytes`` is the largest record, all of it, that the topic takes.
    """

    name: str
    partitions: int
    retention_hours: int | None
    compacted: bool = False
    max_bytes: int = 1 << 20


def _sample(event: Any) -> str:
    return str(event.sample_id)


def _task(event: Any) -> str:
    return str(event.task)


def _origin(event: DeadLettered) -> str:
    return f"{event.source_topic}/{event.partition}/{event.offset}"


EVENTS: tuple[EventSpec, ...] = (
    EventSpec(TrafficRecorded, "TrafficRecorded", 2, "flywheel.traffic", _sample),
    EventSpec(ShadowRecorded, "ShadowRecorded", 1, "flywheel.traffic", _sample),
    EventSpec(LabelRecorded, "LabelRecorded", 1, "flywheel.labels", _sample),
    EventSpec(ReviewRequested, "ReviewRequested", 2, "flywheel.review", _sample),
    EventSpec(LabelSettled, "LabelSettled", 1, "flywheel.settled", _sample),
    EventSpec(DatasetVersioned, "DatasetVersioned", 1, "flywheel.datasets", _task),
    EventSpec(ReleaseRegistered, "ReleaseRegistered", 2, "flywheel.releases", _task),
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
    # A letter carries a record's bytes in base64, so it may grow past that record.
    TopicSpec("flywheel.dead-letters", 1, 24 * 90, max_bytes=4 << 20),
)
