"""What datasets need of a database: samples and labels as they come in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from flywheel.contracts.events import Event, LabelRecorded, LabelSettled, TrafficRecorded
from flywheel.contracts.sample import Content


class LabelIntake(Protocol):
    """Written by the label agent alone. Idempotent by event id; any order of events will do."""

    def inputs(self, samples: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], Content]:
        """(task, sample) → the input it was first recorded with, of those that are known."""
        ...

    def record(self, events: Sequence[Event]) -> None:
        """Keep samples, labels and what experts agreed, of all of them what the methods below do;
        other events are passed over."""
        ...

    def record_samples(self, events: Sequence[TrafficRecorded]) -> None:
        """Keep the samples."""
        ...

    def record_labels(self, events: Sequence[LabelRecorded]) -> None:
        """Keep every label; one from a source in ``SETTLES_ALONE`` settles its sample at once."""
        ...

    def record_settlements(self, events: Sequence[LabelSettled]) -> None:
        """Keep what experts agreed; the latest settlement of a sample counts, None withdraws."""
        ...
