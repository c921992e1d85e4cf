"""What a gateway counts about its requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

_BUCKETS = (
    *(0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
_requests = Counter("flywheel_gateway_requests_total", "Requests.", ("task", "arm", "status"))
_latency = Histogram(
    "flywheel_gateway_latency_seconds", "From acceptance to answer.", ("task",), buckets=_BUCKETS
)
_overhead = Histogram(
    "flywheel_gateway_overhead_seconds",
    "The gateway's own share of the latency: without the model server's call.",
    ("task",),
    buckets=_BUCKETS,
)
_cut = Counter(
    "flywheel_gateway_texts_cut_total",
    "Texts that were answered, but longer than the release reads.",
    ("task",),
)
_quantiles = Gauge(
    "flywheel_gateway_latency_quantile_seconds",
    "Latency of the newest 2,000 answers.",
    ("task", "quantile"),
)


class _Newest:
    """The newest latencies of a task, for quantiles that need no query language to read."""

    def __init__(self, task: str) -> None:
        self.values: deque[float] = deque(maxlen=2_000)
        for quantile in (0.5, 0.95):
            _quantiles.labels(task, str(quantile)).set_function(self._at(quantile))

    def _at(self, quantile: float) -> Callable[[], float]:
        def value() -> float:
            ordered = sorted(self.values)
            return ordered[int(quantile * (len(ordered) - 1))] if ordered else 0.0

        return value


@lru_cache(maxsize=1_000)
def _newest(task: str) -> _Newest:
    return _Newest(task)


@lru_cache(maxsize=1_000)
def _children(task: str) -> tuple[Histogram, Histogram]:
    return _latency.labels(task), _overhead.labels(task)


@lru_cache(maxsize=1_000)
def _count(task: str, arm: str, status: int) -> Counter:
    return _requests.labels(task, arm, str(status))


def count_refused(task: str, status: int) -> None:
    """A request that was not accepted. ``task`` must be one that is configured, or ''."""
    _count(task, "", status).inc()


def count_cut(task: str, tokens_cut: int) -> None:
    """An answer to a text of which ``tokens_cut`` tokens were not read."""
    if tokens_cut:
        _cut.labels(task).inc()


def observe(task: str, arm: str | None, status: int, seconds: float, model_seconds: float) -> None:
    """A request that was accepted and answered with ``status``."""
    _count(task, arm or "", status).inc()
    latency, overhead = _children(task)
    latency.observe(seconds)
    overhead.observe(max(0.0, seconds - model_seconds))
    _newest(task).values.append(seconds)
