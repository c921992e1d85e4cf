"""Records of releases whose folders nobody reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flywheel.contracts.release import Release


def release_record(release: str, task: str, **changes: Any) -> Release:
    """A release that passed its gate; ``changes`` are of its fields."""
    values: dict[str, Any] = {
        "dataset_version": "d",
        "parent": None,
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
        "git_commit": "c",
        "accuracy": 0.9,
        "accuracy_low": 0.8,
        "accuracy_high": 0.95,
        "size_bytes": 1,
        "expert_labels": 1,
        "auto_labels": 0,
        "auto_label_error": None,
        "gate_passed": True,
        "gate_reason": "not worse",
    }
    return Release(release=release, task=task, **(values | changes))
