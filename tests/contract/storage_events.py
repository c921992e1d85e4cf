"""Events for storage tests, with only what a test cares about spelled out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flywheel.contracts.events import (
    LabelRecorded,
    LabelSettled,
    ReviewRequested,
    ShadowRecorded,
    TrafficRecorded,
)
from flywheel.contracts.ids import new_id

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TASK = "intent"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def traffic(sample: str, seconds: float = 0, **other: Any) -> TrafficRecorded:
    values: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": at(seconds),
        "task": TASK,
        "sample_id": sample,
        "content": f"text of {sample}",
        "release": "r1",
        "output": "a",
        "scores": {"a": 0.75, "b": 0.25},
        "confidence": 0.75,
        "latency_ms": 10.0,
    }
    return TrafficRecorded(**(values | other))


def shadow(sample: str, seconds: float = 0, **other: Any) -> ShadowRecorded:
    values: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": at(seconds),
        "task": TASK,
        "sample_id": sample,
        "release": "r2",
        "arm": "challenger",
        "rollout_id": "rollout",
        "output": "a",
        "scores": {"a": 0.5, "b": 0.5},
        "confidence": 0.5,
        "latency_ms": 20.0,
    }
    return ShadowRecorded(**(values | other))


def label(sample: str, value: str, source: Any, seconds: float = 0, **other: Any) -> LabelRecorded:
    values: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": at(seconds),
        "task": TASK,
        "sample_id": sample,
        "value": value,
        "source": source,
        "annotator": f"some {source}",
    }
    return LabelRecorded(**(values | other))


def settled(sample: str, value: str | None, seconds: float = 0, **other: Any) -> LabelSettled:
    values: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": at(seconds),
        "task": TASK,
        "sample_id": sample,
        "value": value,
        "annotators": ("ada", "bob"),
        "agreement": 1.0,
        "inclusion_probability": 0.05,
        "audit": True,
    }
    return LabelSettled(**(values | other))


def request(sample: str, priority: float = 50, seconds: float = 0, **other: Any) -> ReviewRequested:
    values: dict[str, Any] = {
        "event_id": new_id(),
        "occurred_at": at(seconds),
        "task": TASK,
        "sample_id": sample,
        "content": f"text of {sample}",
        "reason": "uncertain",
        "priority": priority,
        "inclusion_probability": 0.5,
        "audit": False,
        "release": "r1",
        "prediction": "a",
        "scores": {"a": 0.6, "b": 0.4},
        "confidence": 0.6,
    }
    return ReviewRequested(**(values | other))
