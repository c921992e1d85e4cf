"""Latencies in buckets, and the sequential test of a quantile's ratio."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flywheel.statistics.buckets import latency_bucket, upper_edge
from flywheel.statistics.quantiles import (
    Latencies,
    log_e_not_slower,
    log_e_slower,
    ratio_interval,
)


def drawn(rng: np.random.Generator, n: int, scale: float) -> Latencies:
    """Log-normal latencies around 20 ms times ``scale``."""
    buckets = [latency_bucket(ms) for ms in 20 * scale * np.exp(0.6 * rng.standard_normal(n))]
    keys, many = np.unique(buckets, return_counts=True)
    return Latencies(dict(zip(keys.tolist(), many.tolist(), strict=True)))


def test_at_the_margin_neither_harm_nor_its_absence_is_often_proven() -> None:
    rng, alpha, margin = np.random.default_rng(1), 0.05, 1.5
    harm = proof = 0
    for _ in range(300):
        pairs = [(drawn(rng, 600, 1.0), drawn(rng, 400, margin))]
        harm += log_e_slower(pairs, margin) >= math.log(1 / alpha)
        proof += log_e_not_slower(pairs, margin) >= math.log(1 / alpha)
    most = alpha + 3 * math.sqrt(alpha * (1 - alpha) / 300)
    assert harm / 300 <= most
    assert proof / 300 <= most


def test_what_is_slow_and_what_is_not_is_proven_and_bounded() -> None:
    rng = np.random.default_rng(2)
    pairs = [(drawn(rng, 4000, 1.0), drawn(rng, 4000, 2.0))]
    assert log_e_slower(pairs, 1.5) >= math.log(1000)
    assert log_e_not_slower(pairs, 3.0) >= math.log(1000)
    low, high = ratio_interval(pairs, 0.05)
    assert low is not None
    assert high is not None
    assert 1.5 < low < 2.0 < high < 3.0


@given(st.floats(1e-3, 1e7))
def test_a_bucket_holds_what_falls_into_it(ms: float) -> None:
    bucket = latency_bucket(ms)
    assert upper_edge(bucket - 1) <= ms * (1 + 1e-9)
    assert ms <= upper_edge(bucket) * (1 + 1e-9)


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=200))
def test_buckets_keep_quantiles_to_two_percent(values: list[float]) -> None:
    counts: dict[int, int] = {}
    for value in values:
        counts[latency_bucket(value)] = counts.get(latency_bucket(value), 0) + 1
    kept = Latencies(counts)
    exact = sorted(values)[math.ceil(0.95 * len(values) - 1e-9) - 1]
    found = kept.quantile(0.95)
    assert found is not None
    assert exact * 0.999 <= found <= exact * 1.021
