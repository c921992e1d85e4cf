"""[kafka] as each client library wants it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from flywheel.errors import BrokerError, ConfigurationError
from flywheel.settings import KafkaSettings
from streams import connection


def sasl(**changes: object) -> KafkaSettings:
    settings: dict[str, object] = {
        "bootstrap_servers": "one:9092,two:9092",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "me",
        "sasl_password": SecretStr("pass"),
    }
    return KafkaSettings.model_validate(settings | changes)


def test_the_local_broker_needs_nothing_but_its_address() -> None:
    assert connection.kafka_python(KafkaSettings(), "me") == {
        "bootstrap_servers": ["127.0.0.1:19092"],
        "client_id": "me",
        "metadata_max_age_ms": connection.METADATA_SECONDS * 1000,
    }
    assert connection.faust(KafkaSettings())["broker"][0].port == 19092


def test_sasl_and_tls_are_passed_through() -> None:
    for arguments in (connection.kafka_python(sasl(), "x"), connection.aiokafka(sasl(), "x")):
        assert arguments["security_protocol"] == "SASL_SSL"
        assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
        assert arguments["sasl_plain_username"] == "me"
        assert arguments["sasl_plain_password"] == "pass"
        assert arguments["ssl_context"].check_hostname


def test_a_login_without_a_password_names_its_variable() -> None:
    with pytest.raises(ConfigurationError, match="FLYWHEEL_KAFKA_SASL_PASSWORD"):
        connection.kafka_python(sasl(sasl_password=None), "x")


def test_a_missing_certificate_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="ssl_cafile"):
        connection.kafka_python(sasl(ssl_cafile="/no/such/file"), "x")


def test_an_address_that_is_none_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="not host:port"):
        connection.require_listener(KafkaSettings(bootstrap_servers="localhost"))


def test_when_nothing_listens_every_address_is_named() -> None:
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:9,127.0.0.1:10")
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:9.*127\.0\.0\.1:10"):
        connection.require_listener(nowhere)


@contextmanager
def listener(says: bytes) -> Iterator[int]:
    """The port of what takes one connection, says something and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as link:
                link.recv(1024)
                link.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("says", "match"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not Kafka: set another kafka.local_port"),
        (b"\0\0\0\x08\0\0\0\x01\0\0\0\0", "is not Kafka|does not answer as Kafka does"),
        (b"\0\0\0\x0c\0\0\0\x09" + bytes(8), "is not Kafka"),
        (b"", "does not answer as Kafka does"),
    ],
    ids=["HTTP", "cut short", "another answer", "silence"],
)
def test_what_has_the_port_and_is_no_kafka_is_said(says: bytes, match: str, tmp_path: Path) -> None:
    with listener(says) as port, pytest.raises(BrokerError, match=match):
        connection.require_listener(KafkaSettings(local_port=port, state=tmp_path))


def test_settings_of_no_workspace_ask_nothing() -> None:
    with listener(b"") as port:
        connection.require_listener(KafkaSettings(local_port=port))


def test_a_watch_asks_again_when_whoever_answered_may_be_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{server.getsockname()[1]}")
        watch = connection.ListenerWatch(kafka)
        watch.require()
        first, _ = server.accept()
        watch.require()
        server.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            server.accept()  # the connection is still there: no other one is made
        server.settimeout(10.0)
        first.close()
        watch.require()
        second, _ = server.accept()
    second.close()
    with pytest.raises(BrokerError, match="no Kafka takes connections"):
        watch.require()
    watch.close()
