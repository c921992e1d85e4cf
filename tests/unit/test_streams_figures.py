"""Figures of an agent are taken beside its work, and never in its way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from faust.types.tuples import TP
from prometheus_client import REGISTRY

from streams.figures import AgentFigures


class Revoked:
    """A client that loses its partition between two questions."""

    def __init__(self) -> None:
        self._committed_offset = {TP("flywheel.traffic", 0): 7}

    def assignment(self) -> set[TP]:
        return set(self._committed_offset)

    def reading_at(self, _: TP) -> int:
        return 9

    def highwater(self, _: TP) -> int:
        raise AssertionError("Partition is not assigned")


def test_a_rebalance_in_the_midst_ends_nothing() -> None:
    figures = AgentFigures("moved", ["flywheel.traffic"], SimpleNamespace(consumer=Revoked()))
    asyncio.run(figures.measure())
    labels = {"group": "moved", "topic": "flywheel.traffic"}
    assert REGISTRY.get_sample_value("flywheel_agent_partitions", labels) == 1
