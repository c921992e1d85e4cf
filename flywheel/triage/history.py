"""What a source's corrected answers say of its next ones."""

from __future__ import annotations

from collections.abc import Mapping

# How far a source with nothing but corrected answers can raise the score towards 1.
HISTORY_WEIGHT = 0.5
# Expert labels that a source without history is taken to have had, none of them corrected.
HISTORY_PRIOR = 5.0


def with_history(score: float, history: Mapping[str, float]) -> float:
    """Raise the score of a sample whose source's answers were often corrected by experts.

    ``history`` has ``expert_labels`` and ``corrections`` of the source, or nothing. The share of
    corrections is shrunk towards 0, so that one correction says little.
    """
    labels = max(0.0, history.get("expert_labels") or 0.0)
    corrections = min(labels, max(0.0, history.get("corrections") or 0.0))
    corrected = corrections / (labels + HISTORY_PRIOR)
    return score + (1.0 - score) * HISTORY_WEIGHT * corrected
