"""Whether the Kafka that answers on the local port is the workspace's own."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from flywheel.errors import BrokerError, ForeignBroker
from streams.local_broker.broker import LocalBroker

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

# Kafka's Metadata request, version 4: no topics, none made. Its answer names brokers and cluster.
_METADATA = struct.pack(">hhih2si?", 3, 4, 1, 2, b"up", 0, False)
_LARGEST_ANSWER = 1 << 20


def require_own_cluster(kafka: KafkaSettings, link: socket.socket) -> None:
    """Raise ForeignBroker unless the workspace's own broker answers at the other end of ``link``.

    A copied workspace has the cluster id of the one it was copied from: the broker must run here
    too. It is asked each time, so a broker that comes, goes or is made anew is noticed. Settings
    of no workspace take whatever broker there is.
    """
    if not kafka.local or kafka.state is None:
        return
    answering = cluster_id_at(link)
    own = LocalBroker(kafka.state, kafka.local_port).status()
    if answering == own.cluster_id and own.running and own.port == kafka.local_port:
        return
    if own.cluster_id is None:
        ours = ", which was never started"
    elif own.running:
        ours = f" (cluster {own.cluster_id}), which runs on port {own.port}"
    else:
        ours = f" (cluster {own.cluster_id}), which does not run"
    raise ForeignBroker(
        f"port {kafka.local_port} is answered by another Kafka (cluster {answering}), not by this "
        f"workspace's{ours}: set another kafka.local_port in flywheel.toml, or stop the other one, "
        "then start this workspace with `flywheel up`; where that Kafka is meant, name it under "
        "kafka.bootstrap_servers"
    )


def cluster_id_at(link: socket.socket) -> str | None:
    """The id of the cluster that answers on an open connection without TLS.

    Raises BrokerError when what is there says nothing in time, or does not speak Kafka.
    """
    try:
        link.sendall(struct.pack(">i", len(_METADATA)) + _METADATA)
        (size,) = struct.unpack(">i", _exactly(link, 4))
        if not 0 < size <= _LARGEST_ANSWER:
            raise ValueError("no answer of Kafka's has this size")
        return _cluster_id(_exactly(link, size))
    except OSError as error:
        raise BrokerError(
            f"what takes connections at {_place(link)} does not answer as Kafka does ({error}): "
            "it is starting, or something else has the port (kafka.local_port)"
        ) from error
    except (ValueError, struct.error) as error:
        raise BrokerError(
            f"what answers at {_place(link)} is not Kafka: set another kafka.local_port, or stop "
            "what has the port"
        ) from error


def _exactly(link: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = link.recv(size - len(content))
        if not part:
            raise ConnectionResetError("it closed the connection")
        content += part
    return content


def _cluster_id(answer: bytes) -> str | None:
    """The cluster in an answer to ``_METADATA``, after correlation, throttling and brokers."""
    correlation, _, brokers = struct.unpack_from(">iii", answer)
    if correlation != 1:
        raise ValueError("it answers another request")
    place = 12
    for _ in range(brokers):
        place = _string(answer, place + 4)[1] + 4  # number; host; port
        place = _string(answer, place)[1]  # rack
    return _string(answer, place)[0]


def _string(answer: bytes, place: int) -> tuple[str | None, int]:
    """The text at a place, and the place after it."""
    (length,) = struct.unpack_from(">h", answer, place)
    place += 2
    if length < 0:
        return None, place
    return answer[place : place + length].decode(), place + length


def _place(link: socket.socket) -> str:
    host, port = link.getpeername()[:2]
    return f"{host}:{port}"
