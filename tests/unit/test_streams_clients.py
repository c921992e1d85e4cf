"""A client that cannot be made leaves no thread and no connection behind."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from flywheel.settings import KafkaSettings
from streams import connection
from streams.clients import made


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Takes connections, as a broker that is stuck, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@pytest.mark.parametrize("kind", [KafkaAdminClient, KafkaConsumer, KafkaProducer])
def test_a_client_of_a_broker_that_does_not_answer_is_gone_when_that_is_said(
    silent: socket.socket, kind: Any
) -> None:
    before = set(threading.enumerate())
    servers = KafkaSettings(bootstrap_servers=f"127.0.0.1:{silent.getsockname()[1]}")
    with pytest.raises(KafkaError):
        made(kind, **connection.kafka_python(servers, "me"), bootstrap_timeout_ms=300)
    assert set(threading.enumerate()) == before
    link, _ = silent.accept()
    with link:
        link.settimeout(10)
        while link.recv(4096):  # what it asked, and then its end
            pass
