"""flywheel.toml and the environment, typed; a bad value fails at start, naming its key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from flywheel.contracts.agents import AGENTS
from flywheel.contracts.configuration import Contradiction, Settings, refusal, refusals
from flywheel.contracts.label_names import names_problem
from flywheel.contracts.layout import CONFIG_FILE, Layout
from flywheel.contracts.workspace_paths import from_workspace
from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.process_settings import (
    ArtefactSettings,
    ConsoleSettings,
    GatewaySettings,
    HttpSettings,
    InstanceSettings,
    KafkaSettings,
    MonitoringSettings,
    ServingSettings,
    WorkerSettings,
)
from flywheel.retention.config import RetentionSettings
from flywheel.task_settings import TaskSettings

__all__ = [
    "CONFIG_FILE",
    "ENVIRONMENT",
    "ArtefactSettings",
    "ConsoleSettings",
    "FlywheelSettings",
    "GatewaySettings",
    "HttpSettings",
    "InstanceSettings",
    "KafkaSettings",
    "MonitoringSettings",
    "ServingSettings",
    "TaskSettings",
    "WorkerSettings",
    "load_settings",
    "parse_settings",
    "refused_keys",
]

_EVERY_HOST = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound to


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
    artefacts: ArtefactSettings = ArtefactSettings()
    gateway: GatewaySettings = GatewaySettings()
    console: ConsoleSettings = ConsoleSettings()
    serving: ServingSettings = ServingSettings()
    worker: WorkerSettings = WorkerSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    retention: RetentionSettings = RetentionSettings()
    instances: InstanceSettings = InstanceSettings()
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
        ports: list[tuple[str, str, int]] = []
        kafka, monitoring = self.kafka, self.monitoring
        if kafka.local:
            beside = "kafka.local_port, whose controller takes the next port"
            ports.append(("kafka.local_port", "127.0.0.1", kafka.local_port))
            ports.append((beside, "127.0.0.1", kafka.local_port + 1))
        if not self.serving.urls:
            ports += [("serving.ports", self.serving.host, port) for port in self.serving.ports]
        ports.append(("gateway.port", self.gateway.host, self.gateway.port))
        ports.append(("console.port", self.console.host, self.console.port))
        for name in ("worker_port", "trainer_port", "controller_port"):
            port: int = getattr(monitoring, name)
            ports.append((f"monitoring.{name}", monitoring.host, port))
        return ports

    @property
    def worker_ports(self) -> tuple[int, ...]:
        """Where the worker's processes listen, as many as there can be."""
        first = self.monitoring.worker_port
        taken = {port for _, _, port in self._listeners()}
        free = (port for port in range(first + 1, 65536) if port not in taken)
        return (first, *islice(free, len(AGENTS) - 1))

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
    "FLYWHEEL_ARTEFACTS_URL": ("artefacts", "url"),
    "FLYWHEEL_KAFKA_BOOTSTRAP_SERVERS": ("kafka", "bootstrap_servers"),
    "FLYWHEEL_KAFKA_SASL_USERNAME": ("kafka", "sasl_username"),
    "FLYWHEEL_KAFKA_SASL_PASSWORD": ("kafka", "sasl_password"),
    "FLYWHEEL_GATEWAY_HOST": ("gateway", "host"),
    "FLYWHEEL_CONSOLE_HOST": ("console", "host"),
    "FLYWHEEL_SERVING_HOST": ("serving", "host"),
    "FLYWHEEL_SERVING_URLS": ("serving", "urls"),
    "FLYWHEEL_MONITORING_HOST": ("monitoring", "host"),
    "FLYWHEEL_INSTANCE": ("instances", "name"),
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
    return _valid(_read(workspace, environ))


def parse_settings(
    text: str, workspace: Path, environ: Mapping[str, str] | None = None
) -> FlywheelSettings:
    """Do as ``load_settings`` does, with a ``flywheel.toml`` that is not written yet."""
    return _valid(_parsed(text, workspace.expanduser().resolve(), environ))


def _valid(raw: dict[str, Any]) -> FlywheelSettings:
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
    workspace = workspace.expanduser().resolve()
    path = Layout(workspace).config
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise WorkspaceError(
            f"{workspace} is no workspace: it has no {CONFIG_FILE}; make one with `flywheel init`"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(str(path), f"not valid TOML: {error}") from error
    return _parsed(text, workspace, environ)


def _parsed(text: str, workspace: Path, environ: Mapping[str, str] | None) -> dict[str, Any]:
    environ = os.environ if environ is None else environ
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        path = Layout(workspace).config
        raise ConfigurationError(str(path), f"not valid TOML: {error}") from error
    if (key := _with_next_line(raw)) is not None:
        raise ConfigurationError(
            key, "holds U+0085, a line break of old machines that DVC turns into a space", "use \\n"
        )
    if "workspace" in raw:
        raise ConfigurationError("workspace", "no such key", "name the folder with --workspace")
    if "state" in _table(raw, "kafka"):
        raise ConfigurationError("kafka.state", "no such key")
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
    if isinstance(kafka := raw.setdefault("kafka", {}), dict):
        kafka["state"] = Layout(workspace).state
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
    problems = (*names, *(_with_next_line(part, where) for where, part in parts))
    return next((one for one in problems if one is not None), None)


def _by_variable(refused: ConfigurationError) -> ConfigurationError:
    """A secret is refused by the name of its variable: it has no key in the file."""
    for section, key in _SECRETS:
        if refused.key.startswith(f"{section}.{key}"):
            return ConfigurationError(_variable(section, key), refused.problem)
    return refused


def _table(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A table of the file, empty where something else stands: that is refused with its key."""
    table = raw.get(key)
    return table if isinstance(table, dict) else {}


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
