"""Read models and stores that several stages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from flywheel.contracts.events import DatasetVersioned, LabelSource, Split
from flywheel.contracts.release import KeptRelease, Release
from flywheel.contracts.sample import Content, as_text


class LabelledSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample with its settled label. ``event_id`` is the event that settled it."""

    sample_id: str
    content: Content
    label: str
    source: LabelSource
    annotators: tuple[str, ...]
    split: Split | None
    inclusion_probability: float
    audit: bool
    settled_at: datetime
    event_id: str

    @property
    def text(self) -> str:
        """The input for what only reads text."""
        return as_text(self.content)


class SeedLabel(msgspec.Struct, frozen=True, kw_only=True):
    """The label that files have given a sample, as it stands, and the part they put it in."""

    label: str
    split: Split | None


class LabelCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Settled labels of a task by source; holdout ones are counted apart."""

    expert: int = 0
    auto: int = 0
    seed: int = 0
    other: int = 0
    holdout: int = 0
    latest: datetime | None = None

    @property
    def given(self) -> int:
        """Those that people gave, by whatever way: what a turn waits for."""
        return self.expert + self.seed + self.other


class LabelStore(Protocol):
    """Read by retraining and the dataset build."""

    def watermark(self, task: str) -> str | None:
        """The position of the latest change to a settled label of this task, to be a dataset's
        upper end; None without any. Opaque, but later ones are larger as text. It is no event id:
        an event made earlier may arrive later, and would slip under an id used before."""
        ...

    def settled(self, task: str, watermark: str) -> list[LabelledSample]:
        """One settled label per sample, as they were at ``watermark`` (for ever the same rows,
        whatever comes after), ordered by sample id. An expert's label outranks seed, outcome,
        user, rule and auto, in this order."""
        ...

    def seed_labels(self, task: str, sample_ids: Sequence[str]) -> Mapping[str, SeedLabel]:
        """Sample id → its seed label, of those that have one and an input."""
        ...

    def counts(self, task: str, after: str | None = None) -> LabelCounts:
        """Labels settled now, of those that changed after an earlier watermark (None: all)."""
        ...


class DatasetStore(Protocol):
    """Written by the trainer alone."""

    def add(self, event: DatasetVersioned) -> None:
        """Record a version. One that is made again from later labels is the newest again; from the
        same labels or earlier ones it changes nothing."""
        ...

    def latest(self, task: str) -> DatasetVersioned | None:
        """The newest version of a task."""
        ...

    def history(self, task: str) -> list[DatasetVersioned]:
        """All versions of a task, oldest first."""
        ...


class ReleaseStore(Protocol):
    """Written by the trainer alone."""

    def add(self, release: Release) -> None:
        """Record a release; the same id twice changes nothing."""
        ...

    def keep(self, kept: KeptRelease) -> None:
        """Record where a release is kept from now on; one that is not known changes nothing."""
        ...

    def get(self, release: str) -> Release | None:
        """One release, or None."""
        ...

    def history(self, task: str) -> list[Release]:
        """All releases of a task, oldest first."""
        ...


class AuditedPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A uniformly audited sample with what a release said of it and what experts settled.

    ``label`` None: experts agreed that nobody can label it. Whatever a release says of it is then
    no label, so it counts as wrong: left out, it would make what is labelled automatically look
    better than it is. ``text`` tells which audits a rule of triage would have decided instead of
    the release."""

    sample_id: str
    text: str
    prediction: str
    label: str | None
    confidence: float
    scores: dict[str, float]
    inclusion_probability: float
    labelled_at: datetime
    correct: bool


class AuditChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What has changed of a release's audits: those that are new or different, and the samples that
    are none any more. ``seq`` is where to go on."""

    seq: int
    audits: list[AuditedPrediction]
    gone: list[str]


class AuditLog(Protocol):
    """Read by triage and the console: how a release did on uniformly random audits."""

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        """What changed after ``after``, the ``seq`` of an earlier answer, of the uniformly audited
        samples that ``release`` scored, live or shadow."""
        ...
