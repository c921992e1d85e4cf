"""An agent in figures: what it has, how fast it goes, how far it is behind."""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Sequence
from typing import Any

import structlog
from prometheus_client import Counter, Gauge

from streams.behind import behind

_handled = Counter("flywheel_agent_events", "Events handled and acknowledged.", ["group"])
dead_lettered = Counter("flywheel_agent_dead_lettered", "Records dead-lettered.", ["group", "code"])
_lag = Gauge("flywheel_agent_lag", "Records not yet handled.", ["group", "topic"])
_partitions = Gauge("flywheel_agent_partitions", "Partitions assigned here.", ["group", "topic"])
_rate = Gauge("flywheel_agent_rate", "Events handled a second, of late.", ["group"])

_log = structlog.get_logger(__name__)

# Over which the rate is taken.
_RATE_SECONDS = 10.0


class AgentFigures:
    """The figures of one agent in this process."""

    def __init__(self, group: str, topics: Sequence[str], app: Any) -> None:
        self._group, self._topics, self._app = group, topics, app
        self._firsts: dict[Any, int] = {}
        self._events = 0
        self._since = time.monotonic()

    def count(self, events: int) -> None:
        """So many more were handled."""
        _handled.labels(self._group).inc(events)
        self._events += events

    async def measure(self) -> None:
        """Bring the gauges up to date, for the partitions that this process has.

        A rebalance may take a partition away in the midst: then the last figures stay.
        """
        now = time.monotonic()
        if now - self._since >= _RATE_SECONDS:
            _rate.labels(self._group).set(self._events / (now - self._since))
            self._events, self._since = 0, now
        try:
            consumer = self._app.consumer
            assigned = list(consumer.assignment())
            counts = Counts(one.topic for one in assigned)
            for topic in self._topics:
                _partitions.labels(self._group, topic).set(counts[topic])
            for topic, lag in (await self._lags(consumer, assigned)).items():
                _lag.labels(self._group, topic).set(lag)
        except Exception as error:  # noqa: BLE001 - aiokafka asserts; no figure is worth an agent
            _log.info("figures not taken", group=self._group, reason=repr(error))

    async def _lags(self, consumer: Any, assigned: Sequence[Any]) -> dict[str, int]:
        lags: dict[str, int] = dict.fromkeys(self._topics, 0)
        committed = {one: consumer._committed_offset.get(one) for one in assigned}
        self._firsts = {one: first for one, first in self._firsts.items() if one in committed}
        unknown = [one for one in assigned if committed[one] is None and one not in self._firsts]
        if unknown:
            self._firsts |= await consumer.earliest_offsets(*unknown)
        places = {one: consumer.reading_at(one) for one in assigned}
        if None in places.values():
            return {}  # reading has just begun, or begins anew
        silent = [one for one in assigned if consumer.highwater(one) is None]
        ends = await consumer.highwaters(*silent) if silent else {}
        for one in assigned:
            lags[one.topic] = lags.get(one.topic, 0) + behind(
                consumer.highwater(one) if one not in ends else ends[one],
                committed[one],
                self._firsts.get(one),
                consumer._read_offset.get(one),
                places[one],
            )
        return lags
