"""Traffic and audits for the triage tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from flywheel.contracts.events import Event, LabelSettled, TrafficRecorded
from flywheel.contracts.ids import new_id
from flywheel.contracts.stores import AuditedPrediction

AT = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = ("NUM", "LOC", "HUM")


def answered(sample_id: str, confidence: float = 0.9, **more: Any) -> TrafficRecorded:
    """An answer LOC with this confidence; what is left is mostly NUM's."""
    rest = 1.0 - confidence
    fields: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": AT,
        "task": "questions",
        "sample_id": sample_id,
        "content": f"where is {sample_id}",
        "source": "app",
        "release": "questions-abc",
        "output": "LOC",
        "scores": {"NUM": rest * 0.8, "LOC": confidence, "HUM": rest * 0.2},
        "confidence": confidence,
    }
    return TrafficRecorded(**(fields | more))


def audited(
    confidences: Sequence[float] | np.ndarray,
    wrong: Sequence[bool] | np.ndarray,
    inclusion: Sequence[float] | np.ndarray | float = 0.05,
    name: str = "audit",
) -> list[AuditedPrediction]:
    """Audits in the order given; the release said LOC, and NUM is right where it was wrong."""
    chances = np.broadcast_to(np.asarray(inclusion, float), len(confidences))
    return [
        AuditedPrediction(
            sample_id=f"{name}-{index}",
            text=f"where is {name}-{index}",
            prediction="LOC",
            label="NUM" if bad else "LOC",
            confidence=float(confidence),
            scores={"LOC": float(confidence), "NUM": 1.0 - float(confidence)},
            inclusion_probability=float(chance),
            labelled_at=AT + timedelta(seconds=index),
            correct=not bad,
        )
        for index, (confidence, bad, chance) in enumerate(
            zip(confidences, wrong, chances, strict=True)
        )
    ]


def audit_events(release: str, audits: Sequence[AuditedPrediction]) -> list[Event]:
    """The traffic and the settlements that these audits come from."""
    events: list[Event] = []
    for audit in audits:
        events.append(
            answered(
                audit.sample_id,
                audit.confidence,
                content=audit.text,
                release=release,
                output=audit.prediction,
                scores=audit.scores,
            )
        )
        events.append(
            LabelSettled(
                event_id=new_id(),
                occurred_at=audit.labelled_at,
                task="questions",
                sample_id=audit.sample_id,
                value=audit.label,
                annotators=("ada",),
                agreement=1.0,
                inclusion_probability=audit.inclusion_probability,
                audit=True,
            )
        )
    return events
