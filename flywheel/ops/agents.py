"""What the agents of a workspace's worker processes have and how fast they go."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import msgspec

from flywheel.ops.health import metrics_text
from flywheel.ops.supervisor import address
from flywheel.settings import FlywheelSettings

_RATE, _PARTITIONS = "flywheel_agent_rate", "flywheel_agent_partitions"


class AgentFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One agent, over the processes of this machine: partitions that it reads, and events that it
    handled a second, of late."""

    partitions: int = 0
    rate: float = 0.0


def agent_figures(settings: FlywheelSettings) -> Mapping[str, AgentFigures]:
    """Consumer group → its figures, of the worker processes that answer."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, AgentFigures] = {}
    for port, _ in zip(settings.worker_ports, settings.worker.shares, strict=False):
        url = f"{address(settings.monitoring.host, port)}/metrics"
        try:
            text = metrics_text(url, settings.monitoring.metrics_keys)
        except httpx.HTTPError:
            continue
        for family in text_string_to_metric_families(text):
            for sample in family.samples if family.name in (_RATE, _PARTITIONS) else ():
                group = sample.labels["group"]
                known = found.get(group, AgentFigures())
                if family.name == _RATE:
                    known = msgspec.structs.replace(known, rate=known.rate + sample.value)
                else:
                    partitions = known.partitions + int(sample.value)
                    known = msgspec.structs.replace(known, partitions=partitions)
                found[group] = known
    return found
