"""The feature store: a Feast repository in the workspace's state folder."""

from __future__ import annotations

from storage.features.history import SourceHistory
from storage.features.store import FeatureStore

__all__ = ["FeatureStore", "SourceHistory"]
