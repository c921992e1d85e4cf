"""`flywheel gateway` itself before one model server, publishing to a real broker."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))
from adapters_server import split
from kafka_fixture import free_port, local_kafka
from servers import KEY, Server, start

from streams.publisher import KafkaPublisher


@contextlib.contextmanager
def broker(folder: Path, release: str) -> Iterator[int]:
    """The port of a broker whose rollouts topic gives ``release`` all traffic of task ``t``."""
    with local_kafka(folder / "kafka") as kafka:
        publisher = KafkaPublisher(kafka, "bench")
        publisher.publish([split([release])])
        publisher.close()
        yield kafka.local_port


def start_gateway(
    name: str,
    folder: Path,
    *,
    model: str,
    broker_port: int,
    labels: Sequence[str],
    fsync: str = "interval",
) -> Server:
    """A gateway in the workspace ``folder`` that asks for ``KEY`` and forwards to ``model``."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flywheel.toml").write_text(
        f"""
[kafka]
bootstrap_servers = "127.0.0.1:{broker_port}"
[gateway]
port = {port}
fsync = "{fsync}"
[serving]
urls = ["{model}"]
[tasks.t]
labels = {list(labels)}
[tasks.t.training]
base_model = "not-used-here"
"""
    )
    command = [sys.executable, "-m", "flywheel", "-w", str(folder), "gateway"]
    keys = {"FLYWHEEL_GATEWAY_API_KEYS": KEY}
    return start(name, command, "/v1/classify", port=port, body=gateway_body, environment=keys)


def gateway_body(text: str) -> bytes:
    """A request for the gateway."""
    return msgspec.json.encode({"task": "t", "text": text})
