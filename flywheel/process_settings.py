"""What flywheel.toml says of the broker, of the artefacts and of what listens: typed, each key with
its meaning."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from flywheel.contracts.addresses import is_loopback
from flywheel.contracts.agents import AGENTS, shares
from flywheel.contracts.configuration import Settings
from flywheel.gateway.config import Fsync
from flywheel.serving.config import VllmSettings

SHORTEST_KEY = 16


class KafkaSettings(Settings):
    """[kafka]: the broker that every event goes through."""

    bootstrap_servers: str = Field(
        "",
        description='Such as "broker-1:9092,broker-2:9092". Empty: Apache Kafka itself, run in '
        "this workspace on the loopback address.",
    )
    local_port: int = Field(
        19092, ge=1, le=65535, description="Of the broker in the workspace; it takes the next too."
    )
    partitions: int = Field(4, ge=1, description="Partitions of the topics keyed by sample.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How brokers elsewhere are spoken to."
    )
    ssl_cafile: Path | None = Field(
        None, examples=["/etc/kafka/ca.pem"], description="Who signed the brokers' certificates."
    )
    ssl_certfile: Path | None = Field(
        None, examples=["/etc/kafka/client.pem"], description="Our certificate, if they ask."
    )
    ssl_keyfile: Path | None = Field(
        None, examples=["/etc/kafka/client.key"], description="The key of our certificate."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, examples=["SCRAM-SHA-512"], description="How we sign in."
    )
    sasl_username: str | None = Field(
        None, examples=["flywheel"], description="As whom we sign in."
    )
    sasl_password: SecretStr | None = Field(
        None, description="From FLYWHEEL_KAFKA_SASL_PASSWORD; never written in the file."
    )
    # No key of the file. By it the workspace's own broker is told from another at its port.
    state: Path | None = Field(
        None, exclude=True, description="The state folder of the workspace that these are of."
    )

    @property
    def local(self) -> bool:
        """Whether the broker is the one in the workspace."""
        return not self.bootstrap_servers

    @property
    def servers(self) -> str:
        """The bootstrap servers to connect to."""
        return self.bootstrap_servers or f"127.0.0.1:{self.local_port}"


# Object stores that artefacts may lie in, and what stands in the URL before a name of one's own.
ARTEFACT_SCHEMES = {
    "s3": "the bucket",
    "gs": "the bucket",
    "az": "the container",
    "abfs": "the container",
    "abfss": "the container",
}


class ArtefactSettings(Settings):
    """[artefacts]: releases, bases and images under their digest, for every process to fetch."""

    url: str = Field(
        "",
        description='Such as "s3://bucket/name" (gs://, az://; its package, such as s3fs, must be '
        "installed), or a folder that every machine has; empty: a folder in the workspace. "
        "Credentials come from the store's own environment variables or files.",
    )
    cache_gb: float = Field(
        20.0, gt=0, description="What is kept here of what was fetched; what is in use stays."
    )

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str) -> str:
        if "://" not in url:
            return url
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise ValueError(f"it is no URL: {error}") from None
        if parts.password is not None:
            raise ValueError(
                "it holds a password, which others read with this file: leave it to the store's "
                "own environment variables or files"
            )
        if parts.scheme not in ARTEFACT_SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in ARTEFACT_SCHEMES)
            raise ValueError(f"{parts.scheme}:// is no store known here: {known}, or a folder")
        if not parts.netloc:
            raise ValueError(f"it does not name {ARTEFACT_SCHEMES[parts.scheme]}")
        if parts.query or parts.fragment:
            raise ValueError("it goes on behind a ? or #, which no store reads")
        return url.rstrip("/")


def _check_key(key: SecretStr) -> None:
    """Raises ValueError, which does not show it, for a key that could be guessed or not be sent."""
    text = key.get_secret_value()
    if not text.strip():
        raise ValueError("it holds a blank key")
    if len(text) < SHORTEST_KEY:
        raise ValueError(
            f"it holds a key of {len(text)} characters; a key needs {SHORTEST_KEY} at least, such "
            "as `openssl rand -hex 16` prints"
        )
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a key is of printable ASCII characters without spaces")


class HttpSettings(Settings):
    """Where a process listens, and the credentials it asks for."""

    host: str = Field(
        "127.0.0.1", description="One that other machines reach needs API keys in the environment."
    )
    port: int = Field(ge=1, le=65535)
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Bearer tokens that are accepted; from the environment, not the file."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Names that requests may call it by, besides this machine's own."
    )
    max_connections: int = Field(
        512, ge=1, description="Open at once; at most half of the files a process may open."
    )

    @field_validator("api_keys")
    @classmethod
    def _usable(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in keys:
            _check_key(key)
        return keys

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys themselves."""
        return tuple(key.get_secret_value() for key in self.api_keys)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


class GatewaySettings(HttpSettings):
    """[gateway]: where traffic comes in."""

    port: int = Field(8080, ge=1, le=65535, description="Of the OpenAI-compatible endpoint.")
    timeout_seconds: float = Field(
        30.0, gt=0, description="Longest wait for an answer, whoever gives it."
    )
    requests_per_second: float | None = Field(
        None, gt=0, examples=[50], description="Limit per source."
    )
    burst: int = Field(50, ge=1, description="Requests of a source that may come at once.")
    fsync: Fsync = Field(
        "interval",
        description='What a power cut may cost (a killed process costs nothing): "always" no '
        'answered request, "interval" those of the last second, "never" what the system had not '
        "written.",
    )


class ConsoleSettings(HttpSettings):
    """[console]: where people label and watch."""

    port: int = Field(8081, ge=1, le=65535, description="Of the pages and their API.")


class ServingSettings(Settings):
    """[serving]: model servers on this machine, or elsewhere by URL."""

    engine: Literal["embedded", "vllm"] = Field(
        "embedded", description="vllm runs in an environment of its own: `make vllm`."
    )
    host: str = Field("127.0.0.1", description="Where servers listen; they ask for no key.")
    ports: tuple[int, ...] = Field((8101, 8102), min_length=1, description="One server per port.")
    urls: tuple[str, ...] = Field((), description="Servers run elsewhere; replaces ports.")
    threads: int = Field(1, ge=1, description="CPU threads of each embedded server.")
    max_batch: int = Field(16, ge=1, description="Texts that are computed together.")
    max_wait_ms: float = Field(
        2.0, ge=0, description="How long a text waits for others to be computed with."
    )
    queue_size: int = Field(256, ge=1, description="Texts that wait; more are answered 429.")
    max_queue_seconds: float = Field(
        8.0, gt=0, description="A text that waited longer is answered 429; below gateway timeouts."
    )
    max_loaded: int | None = Field(
        None,
        ge=1,
        examples=[20],
        description="Releases that each server holds; of more, those asked last.",
    )
    max_loaded_gb: float | None = Field(
        None,
        gt=0,
        examples=[4.0],
        description="The same by the size of their files, in GiB.",
    )
    load_seconds: float = Field(
        8.0,
        gt=0,
        description="How long a request waits for a release that is not loaded; then it gets 503.",
    )
    vllm: VllmSettings = VllmSettings()

    @property
    def max_loaded_bytes(self) -> int | None:
        """``max_loaded_gb`` in bytes."""
        return None if self.max_loaded_gb is None else int(self.max_loaded_gb * 2**30)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Base URLs of every model server."""
        return self.urls or tuple(f"http://127.0.0.1:{port}" for port in self.ports)


# A name stands in file names, in Kafka's client ids and in metrics.
_INSTANCE = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class InstanceSettings(Settings):
    """[instances]: what processes are called where several of a kind run. A free number follows."""

    name: str = Field("", description="Of every process started here; empty: the host's name.")
    gateway: str = Field("", description="Of a gateway, instead of name.")
    console: str = Field("", description="Of a console.")
    model: str = Field("", description="Of a model server.")
    worker: str = Field("", description="Of a worker.")
    trainer: str = Field("", description="Of a trainer.")
    controller: str = Field("", description="Of a controller.")

    @field_validator("*")
    @classmethod
    def _usable(cls, name: str) -> str:
        if name and _INSTANCE.fullmatch(name) is None:
            raise ValueError(
                f"{name!r} is no name of an instance: letters, digits, dots, - and _, up to 100, a "
                "letter or a digit first"
            )
        return name

    def of(self, kind: str) -> str:
        """What processes of a kind are called; empty: as their host is."""
        return str(getattr(self, kind)) or self.name


class WorkerSettings(Settings):
    """[worker]: the agents between Kafka and the database."""

    processes: Literal["auto"] | int = Field(
        "auto",
        description='Over which `flywheel up` spreads the agents; "auto": one for each core, and '
        "no more than agents (4).",
    )

    @field_validator("processes")
    @classmethod
    def _usable(cls, processes: Literal["auto"] | int) -> Literal["auto"] | int:
        if processes != "auto" and not 1 <= processes <= len(AGENTS):
            raise ValueError(f"between 1 and {len(AGENTS)}, the number of agents")
        return processes

    @property
    def shares(self) -> tuple[tuple[str, ...], ...]:
        """The agents of each process on this machine."""
        cores = len(os.sched_getaffinity(0))
        return shares(cores if self.processes == "auto" else self.processes)


class MonitoringSettings(Settings):
    """[monitoring]: /healthz and /metrics of the processes that serve nothing else."""

    host: str = Field("127.0.0.1", description="Where they listen.")
    worker_port: int = Field(
        8091,
        ge=1,
        le=65535,
        description="Of the worker; its further processes take the next that no other key has.",
    )
    trainer_port: int = Field(8092, ge=1, le=65535, description="Of the trainer.")
    controller_port: int = Field(8093, ge=1, le=65535, description="Of the rollout controller.")
    metrics_key: SecretStr | None = Field(
        None,
        description="Bearer token that /metrics of every process asks for; from the environment.",
    )

    @field_validator("metrics_key")
    @classmethod
    def _usable(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            _check_key(key)
        return key

    @property
    def metrics_keys(self) -> tuple[str, ...]:
        """The key itself, or none."""
        return (self.metrics_key.get_secret_value(),) if self.metrics_key else ()
