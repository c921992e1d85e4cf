"""Which releases and dataset versions are kept no longer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flywheel.retention.releases import (
    DatasetUse,
    ReleaseUse,
    datasets_to_prune,
    releases_to_prune,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def use(release: str, days_ago: float, **other: Any) -> ReleaseUse:
    values: dict[str, Any] = {
        "dataset_version": f"d-{release}",
        "parent": None,
        "registered_at": NOW - timedelta(days=days_ago),
        "champion": False,
        "served_until": None,
        "needed": False,
    }
    return ReleaseUse(release=release, **(values | other))


def test_a_former_champion_within_the_window_stays() -> None:
    uses = [
        use("served long ago", 200, served_until=NOW - timedelta(days=100)),
        use("served lately", 190, served_until=NOW - timedelta(days=10)),
        use("never served, old", 180),
        use("never served, young", 20),
        use("newest", 19),
    ]
    assert releases_to_prune(uses, 30, NOW) == ["served long ago", "never served, old"]


def test_what_serves_what_is_tried_and_the_newest_stay_however_old() -> None:
    uses = [use("champion", 300, champion=True), use("tried", 200, needed=True), use("new", 100)]
    assert releases_to_prune(uses, 30, NOW) == []
    assert releases_to_prune([use("old", 300), *uses], 30, NOW) == ["old"]
    assert releases_to_prune([use("old", 300), *uses], 0, NOW) == [], "0 keeps for ever"
    assert releases_to_prune([], 30, NOW) == []


def test_datasets_of_kept_releases_the_newest_and_its_parent_stay() -> None:
    made = [
        DatasetUse(version=name, parent=parent, made_at=NOW - timedelta(days=days))
        for name, parent, days in (
            ("d-1", None, 300),
            ("d-2", "d-1", 200),
            ("d-3", "d-2", 150),
            ("d-4", "d-3", 100),
        )
    ]
    kept = [use("r", 200, dataset_version="d-2")]
    assert datasets_to_prune(made, kept, 30, NOW) == ["d-1"]
    assert datasets_to_prune(made, [], 30, NOW) == ["d-1", "d-2"]
    assert datasets_to_prune(made, [], 0, NOW) == []
    assert datasets_to_prune([], [], 30, NOW) == []
