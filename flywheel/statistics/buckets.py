"""Latencies as counts in buckets, each 2 % wider than the one before: small, and exact to 2 %."""

from __future__ import annotations

import math

# The log of how much wider each bucket is: counts are kept by its number, so it never changes.
WIDTH = math.log(1.02)
_LEAST_MS = 1e-3


def latency_bucket(latency_ms: float) -> int:
    """The number of the bucket that a latency falls into."""
    return math.ceil(math.log(max(latency_ms, _LEAST_MS)) / WIDTH)


def upper_edge(bucket: float) -> float:
    """The upper edge of a bucket, in ms."""
    return math.exp(WIDTH * float(bucket))
