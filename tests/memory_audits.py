"""The audit log in memory: events in, audits of a release out (``contracts.stores.AuditLog``)."""

from __future__ import annotations

from collections.abc import Sequence

from flywheel.contracts.events import (
    Event,
    LabelSettled,
    ReviewRequested,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.stores import AuditChanges, AuditedPrediction
from flywheel.errors import StorageError
from flywheel.kinds.predictions import is_right


class MemoryAuditLog:
    """Audits worked out from the events alone; counts its reads and can be taken away."""

    def __init__(self, *events: Event) -> None:
        self.events = list(events)
        self.reads = 0
        self.broken = False

    def record(self, events: Sequence[Event]) -> None:
        self.events.extend(events)

    def changed(self, task: str, release: str, after: int = 0) -> AuditChanges:
        """Everything again whenever any event has come."""
        self.reads += 1
        if self.broken:
            raise StorageError("the database is locked")
        audits = self._audits(task, release) if len(self.events) > after else []
        kept = {audit.sample_id for audit in audits}
        gone = {e.sample_id for e in self.events if isinstance(e, LabelSettled) and e.task == task}
        return AuditChanges(
            seq=len(self.events),
            audits=audits,
            gone=sorted(gone - kept) if len(self.events) > after else [],
        )

    def _audits(self, task: str, release: str) -> list[AuditedPrediction]:
        mine = [event for event in self.events if event.task == task]
        texts: dict[str, str] = {}
        for event in mine:
            if isinstance(event, TrafficRecorded):
                texts.setdefault(event.sample_id, event.text)
        texts |= {e.sample_id: e.text for e in mine if isinstance(e, ReviewRequested)}
        settled = [event for event in mine if isinstance(event, LabelSettled)]
        latest = {e.sample_id: e for e in sorted(settled, key=lambda e: e.occurred_at)}
        # Live before shadow.
        said: dict[str, TrafficRecorded | ShadowRecorded] = {}
        for kind in (ShadowRecorded, TrafficRecorded):
            said |= {e.sample_id: e for e in mine if isinstance(e, kind) and e.release == release}
        return [
            AuditedPrediction(
                sample_id=truth.sample_id,
                text=texts[truth.sample_id],
                prediction=answer.output,
                label=truth.value,
                confidence=answer.confidence or 0.0,
                scores=answer.scores,
                inclusion_probability=truth.inclusion_probability,
                labelled_at=truth.occurred_at,
                correct=truth.value is not None
                and is_right(answer.output, truth.value, answer.scores),
            )
            for truth in sorted(latest.values(), key=lambda e: (e.occurred_at, e.event_id))
            for answer in [said.get(truth.sample_id)]
            if truth.audit and not truth.withdraws and truth.sample_id in texts
            if answer is not None and answer.output is not None
        ]
