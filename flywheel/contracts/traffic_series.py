"""The buckets that traffic is counted in for charts: sizes in seconds, and how many are kept."""

from __future__ import annotations

SIZES = (1, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)
# Of each size; a chart shows half as many, so that one who looks back a little finds them.
KEPT = 480


def start_of(moment: float, size: int) -> int:
    """Where the bucket begins that a moment (seconds since 1970) falls into."""
    return int(moment // size) * size
