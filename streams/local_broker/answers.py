"""Whether a Kafka broker answers, by the shortest question there is: no client is needed."""

from __future__ import annotations

import socket
import struct


def answers(server: str, timeout: float = 2.0) -> bool:
    """Whether a Kafka broker without TLS answers an ApiVersions request at ``host:port``."""
    host, _, port = server.rpartition(":")
    # api key 18, version 0, correlation id 1, client id "up"
    request = struct.pack(">hhih2s", 18, 0, 1, 2, b"up")
    try:
        with socket.create_connection((host, int(port)), timeout) as link:
            link.sendall(struct.pack(">i", len(request)) + request)
            return len(link.recv(8)) >= 4
    except OSError:
        return False
