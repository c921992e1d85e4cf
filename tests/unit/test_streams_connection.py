"""[kafka] as each client library wants it."""

from __future__ import annotations

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
