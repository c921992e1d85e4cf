"""Client settings of each Kafka library, out of [kafka]."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

from flywheel.errors import BrokerError, ConfigurationError
from streams.local_broker.ownership import require_own_cluster

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings


# How old what a client knows of topics may be: partitions that are added are read, and a topic that
# is made anew is noticed, after this at the latest. The clients' own default is five minutes.
METADATA_SECONDS = 15


def kafka_python(kafka: KafkaSettings, client_id: str) -> dict[str, Any]:
    """Arguments of every kafka-python client."""
    return {
        "bootstrap_servers": kafka.servers.split(","),
        "client_id": client_id,
        "metadata_max_age_ms": METADATA_SECONDS * 1000,
    } | _security(kafka)


def require_listener(kafka: KafkaSettings, timeout: float = 2.0) -> None:
    """Raise BrokerError unless some bootstrap server takes a connection; ForeignBroker when the
    workspace's own broker is meant and another answers.

    Kafka's clients try for half a minute before they say so, and leave open sockets behind.
    """
    _own_listener(kafka, timeout).close()


def _own_listener(kafka: KafkaSettings, timeout: float) -> socket.socket:
    """A connection to a bootstrap server; raises as ``require_listener``."""
    reasons = []
    for server in kafka.servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            link = socket.create_connection((host.strip("[]"), int(port)), timeout)
        except ValueError:
            raise ConfigurationError(
                "kafka.bootstrap_servers", f"{server!r} is not host:port"
            ) from None
        except OSError as error:
            reasons.append(f"{server}: {error.strerror or error}")
        else:
            try:
                require_own_cluster(kafka, link)
            except BaseException:
                link.close()
                raise
            return link
    hint = "start it with `flywheel kafka start`" if kafka.local else "check [kafka]"
    raise BrokerError(f"no Kafka takes connections ({'; '.join(reasons)}): {hint}")


class ListenerWatch:
    """Asks again and again what ``require_listener`` asks once, for one thread at a time. While a
    connection stays open, whoever answered on it is there: only every ``METADATA_SECONDS`` another
    is made, which would notice a host that is gone without a word."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._link: socket.socket | None = None
        self._asked_at = float("-inf")

    def require(self) -> None:
        """Raise as ``require_listener`` does."""
        old = time.monotonic() - self._asked_at >= METADATA_SECONDS
        if self._link is not None and not old and _is_open(self._link):
            return
        self.close()
        self._link = _own_listener(self._kafka, 2.0)
        self._link.setblocking(False)
        self._asked_at = time.monotonic()

    def close(self) -> None:
        """Let go of the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None


def _is_open(link: socket.socket) -> bool:
    """Whether nobody has closed a connection on which nothing is to come any more."""
    try:
        return bool(link.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def aiokafka(kafka: KafkaSettings, client_id: str) -> dict[str, Any]:
    """Arguments of every aiokafka client."""
    return {
        "bootstrap_servers": kafka.servers,
        "client_id": client_id,
        "metadata_max_age_ms": METADATA_SECONDS * 1000,
    } | _security(kafka)


def faust(kafka: KafkaSettings) -> dict[str, Any]:
    """Arguments of a Faust app: broker URLs and credentials."""
    from yarl import URL

    from streams.transport import SCHEME

    arguments: dict[str, Any] = {
        "consumer_metadata_max_age_ms": METADATA_SECONDS * 1000,
        "producer_metadata_max_age_ms": METADATA_SECONDS * 1000,
        "broker": [URL(f"{SCHEME}://{server.strip()}") for server in kafka.servers.split(",")],
    }
    if credentials := _faust_credentials(kafka):
        arguments["broker_credentials"] = credentials
    return arguments


def _security(kafka: KafkaSettings) -> dict[str, Any]:
    if kafka.security_protocol == "PLAINTEXT":
        return {}
    arguments: dict[str, Any] = {"security_protocol": kafka.security_protocol}
    if kafka.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _tls(kafka)
    if kafka.security_protocol.startswith("SASL"):
        username, password = _login(kafka)
        arguments |= {
            "sasl_mechanism": kafka.sasl_mechanism or "PLAIN",
            "sasl_plain_username": username,
            "sasl_plain_password": password,
        }
    return arguments


def _faust_credentials(kafka: KafkaSettings) -> Any:
    from faust.auth import SASLCredentials, SSLCredentials

    if kafka.security_protocol == "SSL":
        return SSLCredentials(_tls(kafka))
    if kafka.security_protocol.startswith("SASL"):
        username, password = _login(kafka)
        return SASLCredentials(
            username=username,
            password=password,
            mechanism=kafka.sasl_mechanism or "PLAIN",
            ssl_context=_tls(kafka) if kafka.security_protocol.endswith("SSL") else None,
        )
    return None


def _login(kafka: KafkaSettings) -> tuple[str, str]:
    if kafka.sasl_username is None or kafka.sasl_password is None:
        raise ConfigurationError(
            "kafka.sasl_username",
            f"{kafka.security_protocol} needs a user name and a password",
            "set FLYWHEEL_KAFKA_SASL_USERNAME and FLYWHEEL_KAFKA_SASL_PASSWORD",
        )
    return kafka.sasl_username, kafka.sasl_password.get_secret_value()


def _tls(kafka: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile)
        if kafka.ssl_certfile is not None:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            "kafka.ssl_cafile", f"the TLS files cannot be used: {error}"
        ) from error
    return context
