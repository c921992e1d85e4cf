"""One row of the feature view: what is known of a source of traffic."""

from __future__ import annotations

from datetime import datetime

import msgspec


class SourceHistory(msgspec.Struct, frozen=True, kw_only=True):
    """What the database says of one source at ``latest``, its last request or label."""

    source: str
    samples: int
    mean_confidence: float
    expert_labels: int
    corrections: int
    latest: datetime

    @property
    def correction_rate(self) -> float:
        """Share of expert labels that differ from what was answered."""
        return self.corrections / self.expert_labels if self.expert_labels else 0.0
