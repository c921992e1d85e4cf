"""What Feast is told: the entity, its source of history, the feature view. Imports Feast."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

VIEW = "source_history"
FEATURES = {
    "samples": Int64,
    "mean_confidence": Float64,
    "expert_labels": Int64,
    "corrections": Int64,
    "correction_rate": Float64,
}
EVENT_TIME = "event_timestamp"


def definitions(history: Path) -> list[Any]:
    """The objects of the repository; ``history`` is the folder of Parquet files."""
    source = Entity(
        name="source",
        join_keys=["source"],
        value_type=ValueType.STRING,
        description="A task, and who sends traffic to it: a user, an application, a queue.",
    )
    files = FileSource(
        name="source_history_files",
        path=str(history),
        timestamp_field=EVENT_TIME,
    )
    view = FeatureView(
        name=VIEW,
        entities=[source],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=kind) for name, kind in FEATURES.items()],
        source=files,
        online=True,
        description="Traffic of a source so far, and how often experts corrected its answers.",
    )
    return [source, view]
