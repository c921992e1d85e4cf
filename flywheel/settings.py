"""flywheel.toml and the environment, typed; a bad value fails at start, naming its key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from flywheel.contracts.addresses import is_loopback
from flywheel.contracts.configuration import Contradiction, Settings, refusal, refusals
from flywheel.contracts.label_names import names_problem
from flywheel.contracts.layout import CONFIG_FILE, Layout
from flywheel.contracts.workspace_paths import from_workspace
from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.gateway.config import Fsync
from flywheel.serving.config import VllmSettings
from flywheel.task_settings import TaskSettings

__all__ = [
    "CONFIG_FILE",
    "ENVIRONMENT",
    "ConsoleSettings",
    "FlywheelSettings",
    "GatewaySettings",
    "HttpSettings",
    "KafkaSettings",
    "MonitoringSettings",
    "ServingSettings",
    "TaskSettings",
    "load_settings",
    "refused_keys",
]

SHORTEST_KEY = 16
_EVERY_HOST = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound to


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

    @property
    def local(self) -> bool:
        """Whether the broker is the one in the workspace."""
        return not self.bootstrap_servers

    @property
    def servers(self) -> str:
        """The bootstrap servers to connect to."""
        return self.bootstrap_servers or f"127.0.0.1:{self.local_port}"


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
    vllm: VllmSettings = VllmSettings()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Base URLs of every model server."""
        return self.urls or tuple(f"http://127.0.0.1:{port}" for port in self.ports)


class MonitoringSettings(Settings):
    """[monitoring]: /healthz and /metrics of the processes that serve nothing else."""

    host: str = Field("127.0.0.1", description="Where they listen.")
    worker_port: int = Field(8091, ge=1, le=65535, description="Of the worker.")
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


class FlywheelSettings(Settings):
    """The whole of flywheel.toml, with what the environment overrides."""

    workspace: Path = Field(exclude=True)
    database_url: str = Field(
        "",
        description='Such as "postgresql+psycopg://user@host/name"; empty: SQLite in the '
        "workspace.",
    )
    dvc_remote_url: str = Field(
        "",
        description='Where DVC keeps the bytes of datasets and models, such as "s3://bucket/name" '
        "(needs DVC's plug-in, such as the package dvc-s3) or a folder; empty: a folder in the "
        "workspace.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What the processes' logs hold at least."
    )
    kafka: KafkaSettings = KafkaSettings()
    gateway: GatewaySettings = GatewaySettings()
    console: ConsoleSettings = ConsoleSettings()
    serving: ServingSettings = ServingSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    tasks: dict[str, TaskSettings] = Field(min_length=1)

    @field_validator("dvc_remote_url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        if re.search(r"://[^/@]*:[^/@]*@", url):
            raise ValueError(
                "it holds a password, and git keeps it: `dvc remote modify --local flywheel "
                "password` notes it for this machine alone"
            )
        return url

    @field_validator("tasks")
    @classmethod
    def _names(cls, tasks: dict[str, TaskSettings]) -> dict[str, TaskSettings]:
        for name in tasks:
            if not name.replace("-", "").replace("_", "").isalnum() or not name.islower():
                raise Contradiction(name, "a task's name is lower-case letters, digits, - and _")
        if problem := names_problem(list(tasks)):
            raise Contradiction(list(tasks)[-1], f"names of tasks: {problem}")
        return tasks

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        for name, task in self.tasks.items():
            if task.model == "llm" and self.serving.engine != "vllm" and not self.serving.urls:
                raise Contradiction(
                    f"tasks.{name}.model",
                    f'tasks.{name}.model is "llm", which the embedded engine cannot serve: '
                    'set serving.engine = "vllm" (after `make vllm`), or serving.urls',
                )
            if task.model == "llm" and task.lora.rank > self.serving.vllm.max_rank:
                raise Contradiction(
                    f"tasks.{name}.lora.rank",
                    f"tasks.{name}.lora.rank is {task.lora.rank}, but adapters are served up to "
                    f"serving.vllm.max_rank = {self.serving.vllm.max_rank}: raise that",
                )
        for name, http in (("gateway", self.gateway), ("console", self.console)):
            if not http.loopback and not http.api_keys:
                raise Contradiction(
                    f"{name}.host",
                    f"{http.host!r} is reachable from other machines: set "
                    f"FLYWHEEL_{name.upper()}_API_KEYS, or listen on 127.0.0.1",
                )
        return self

    @model_validator(mode="after")
    def _ports(self) -> Self:
        seen: list[tuple[str, str, int]] = []
        for key, host, port in self._listeners():
            for other, there, taken in seen:
                if port == taken and (host == there or _EVERY_HOST & {host, there}):
                    raise Contradiction(key, f"port {port} is that of {other} as well")
            seen.append((key, host, port))
        return self

    def _listeners(self) -> list[tuple[str, str, int]]:
        """(key, host, port) of everything that `flywheel up` starts."""
        found: list[tuple[str, str, int]] = []
        kafka, monitoring = self.kafka, self.monitoring
        if kafka.local:
            beside = "kafka.local_port, whose controller takes the next port"
            found.append(("kafka.local_port", "127.0.0.1", kafka.local_port))
            found.append((beside, "127.0.0.1", kafka.local_port + 1))
        if not self.serving.urls:
            found += [("serving.ports", self.serving.host, port) for port in self.serving.ports]
        found.append(("gateway.port", self.gateway.host, self.gateway.port))
        found.append(("console.port", self.console.host, self.console.port))
        for name in ("worker_port", "trainer_port", "controller_port"):
            port: int = getattr(monitoring, name)
            found.append((f"monitoring.{name}", monitoring.host, port))
        return found

    @property
    def layout(self) -> Layout:
        """Where everything of the workspace lies."""
        return Layout(self.workspace)

    @property
    def state(self) -> Path:
        """The folder of all that is neither configuration nor versioned: database, logs, data."""
        return self.layout.state

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.layout.database}"

    def task(self, name: str) -> TaskSettings:
        """The settings of one task. Raises ConfigurationError for a name that is not there."""
        try:
            return self.tasks[name]
        except KeyError:
            known = ", ".join(sorted(self.tasks))
            raise ConfigurationError(f"tasks.{name}", "no such task", f"known: {known}") from None


# Variable → the key that it replaces.
ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "FLYWHEEL_DATABASE_URL": ("database_url",),
    "FLYWHEEL_DVC_REMOTE_URL": ("dvc_remote_url",),
    "FLYWHEEL_LOG_LEVEL": ("log_level",),
    "FLYWHEEL_KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "FLYWHEEL_KAFKA_SASL_USERNAME": ("kafka", "sasl_username"),
    "FLYWHEEL_KAFKA_SASL_PASSWORD": ("kafka", "sasl_password"),
    "FLYWHEEL_GATEWAY_HOST": ("gateway", "host"),
    "FLYWHEEL_CONSOLE_HOST": ("console", "host"),
    "FLYWHEEL_SERVING_HOST": ("serving", "host"),
    "FLYWHEEL_SERVING_URLS": ("serving", "urls"),
    "FLYWHEEL_MONITORING_HOST": ("monitoring", "host"),
    "FLYWHEEL_GATEWAY_API_KEYS": ("gateway", "api_keys"),
    "FLYWHEEL_CONSOLE_API_KEYS": ("console", "api_keys"),
    "FLYWHEEL_METRICS_KEY": ("monitoring", "metrics_key"),
}
_SECRETS = (
    ("kafka", "sasl_password"),
    ("gateway", "api_keys"),
    ("console", "api_keys"),
    ("monitoring", "metrics_key"),
)


def load_settings(workspace: Path, environ: Mapping[str, str] | None = None) -> FlywheelSettings:
    """Read ``flywheel.toml`` of a workspace and what the environment overrides.

    Raises WorkspaceError when there is no such file and ConfigurationError, naming the key, for
    anything in it that is wrong.
    """
    raw = _read(workspace, environ)
    try:
        return FlywheelSettings(**raw)
    except ValidationError as error:
        raise _by_variable(refusal(error, FlywheelSettings)) from error


def refused_keys(
    workspace: Path, environ: Mapping[str, str] | None = None
) -> list[ConfigurationError]:
    """All for which ``load_settings`` would refuse a workspace, not the first alone.

    Keys that contradict each other are looked at once each is right by itself. Raises
    WorkspaceError when there is no flywheel.toml.
    """
    try:
        FlywheelSettings(**_read(workspace, environ))
    except ConfigurationError as error:
        return [error]
    except ValidationError as error:
        return [_by_variable(refused) for refused in refusals(error, FlywheelSettings)]
    return []


def _read(workspace: Path, environ: Mapping[str, str] | None) -> dict[str, Any]:
    """The file and what the environment overrides, as it stands there, with its ``workspace``."""
    environ = os.environ if environ is None else environ
    workspace = workspace.expanduser().resolve()
    path = Layout(workspace).config
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise WorkspaceError(
            f"{workspace} is no workspace: it has no {CONFIG_FILE}; make one with `flywheel init`"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(path), f"not valid TOML: {error}") from error
    if (key := _with_next_line(raw)) is not None:
        raise ConfigurationError(
            key, "holds U+0085, a line break of old machines that DVC turns into a space", "use \\n"
        )
    if "workspace" in raw:
        raise ConfigurationError("workspace", "no such key", "name the folder with --workspace")
    for section, key in _SECRETS:
        if key in _table(raw, section):
            raise ConfigurationError(
                f"{section}.{key}",
                "secrets do not belong in the file",
                f"set {_variable(section, key)} instead",
            )
    for variable, keys in ENVIRONMENT.items():
        if variable not in environ:
            continue
        value = _told(environ[variable], keys[-1])
        table = raw.setdefault(keys[0], {}) if len(keys) > 1 else raw
        if isinstance(table, dict):
            table[keys[-1]] = value
    from_workspace(raw, workspace)
    return {**raw, "workspace": workspace}


def _with_next_line(value: object, key: str = "") -> str | None:
    """The key of a text, or a name, that has the control character U+0085."""
    if isinstance(value, str):
        return key if "\x85" in value else None
    if isinstance(value, dict):
        parts = [(f"{key}.{name}" if key else name, part) for name, part in value.items()]
        names = [_with_next_line(name, key) for name in value]
    else:
        parts = [(key, part) for part in value] if isinstance(value, list) else []
        names = []
    found = (*names, *(_with_next_line(part, where) for where, part in parts))
    return next((one for one in found if one is not None), None)


def _by_variable(refused: ConfigurationError) -> ConfigurationError:
    """A secret is refused by the name of its variable: it has no key in the file."""
    for section, key in _SECRETS:
        if refused.key.startswith(f"{section}.{key}"):
            return ConfigurationError(_variable(section, key), refused.problem)
    return refused


def _table(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A table of the file, empty where something else stands: that is refused with its key."""
    found = raw.get(key)
    return found if isinstance(found, dict) else {}


def _told(text: str, key: str) -> object:
    """What a variable says of a key. An empty variable names no key at all; a blank one among
    others is a mistake, which stays to be refused."""
    if key == "metrics_key":
        return text.strip() if text else None
    if key not in {"api_keys", "urls"}:
        return text
    parts = tuple(part.strip() for part in text.split(","))
    return parts if key == "api_keys" and text else tuple(part for part in parts if part)


def _variable(*path: str) -> str:
    return next(name for name, keys in ENVIRONMENT.items() if keys == path)
