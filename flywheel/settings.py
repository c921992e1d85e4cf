"""flywheel.toml and the environment, typed; a bad value fails at start, naming its key."""

from __future__ import annotations

import os
import string
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from flywheel.compression.config import CompressionSettings
from flywheel.contracts.configuration import Settings
from flywheel.contracts.model_folder import Prompt
from flywheel.datasets.config import DatasetSettings
from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.evaluation.config import GateSettings
from flywheel.retraining.config import RetrainingSettings
from flywheel.review.config import ReviewSettings
from flywheel.rollout.config import RolloutSettings
from flywheel.serving.config import VllmSettings
from flywheel.training.config import LoraSettings, TrainingSettings
from flywheel.triage.config import TriageSettings

CONFIG_FILE = "flywheel.toml"
# What a language model answers with: one token each in every tokenizer there is.
_LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits


class PromptSettings(Settings):
    """[tasks.NAME.prompt]: how a language model is asked."""

    system: str = ""
    template: str = Field("{text}", description="The user's message; {text} is the sample.")
    max_answer_tokens: int = Field(128, ge=1, description="Longest generated answer.")

    @field_validator("template")
    @classmethod
    def _holds_text(cls, template: str) -> str:
        if template.count("{text}") != 1:
            raise ValueError("template must hold {text} exactly once")
        return template


class TaskSettings(Settings):
    """[tasks.NAME]"""

    kind: Literal["classification", "generation"] = "classification"
    model: Literal["encoder", "llm"] = Field(
        "encoder", description="An encoder with a head, or a language model with LoRA adapters."
    )
    title: str = ""
    labels: tuple[str, ...] = Field(
        (), description="Every label, in the order experts see them; none for generation."
    )
    label_titles: dict[str, str] = Field(default_factory=dict, description="Label → words for it.")
    triage: TriageSettings = TriageSettings()
    review: ReviewSettings = ReviewSettings()
    dataset: DatasetSettings = DatasetSettings()
    retraining: RetrainingSettings = RetrainingSettings()
    training: TrainingSettings
    lora: LoraSettings = LoraSettings()
    prompt: PromptSettings = PromptSettings()
    compression: CompressionSettings = CompressionSettings()
    gate: GateSettings = GateSettings()
    rollout: RolloutSettings = RolloutSettings()

    @property
    def release_prompt(self) -> Prompt | None:
        """How a language model is asked; None for an encoder.

        For a classification the options stand in the system message, the same for every request,
        each with a letter of its own that the model answers with.
        """
        if self.model != "llm":
            return None
        told = self.prompt
        if self.kind == "generation":
            return Prompt(
                system=told.system,
                template=told.template,
                max_answer_tokens=told.max_answer_tokens,
            )
        answers = dict(zip(self.labels, _LETTERS, strict=False))
        options = "".join(
            f"\n{letter}: {self.label_titles.get(label, label)}"
            for label, letter in answers.items()
        )
        asked = told.system or f"{self.title or 'Which class does the text belong to?'}"
        return Prompt(
            system=f"{asked} Answer with one letter.{options}",
            template=told.template,
            max_answer_tokens=1,
            answers=answers,
        )

    @model_validator(mode="after")
    def _labels(self) -> Self:
        if self.kind == "generation":
            if self.labels:
                raise ValueError("labels has no meaning where kind is generation: leave it out")
            if self.model != "llm":
                raise ValueError('kind = "generation" needs model = "llm"')
        elif len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels needs at least two different labels")
        if self.model == "llm" and len(self.labels) > len(_LETTERS):
            raise ValueError(
                f"labels has {len(self.labels)}: a language model tells {len(_LETTERS)} apart"
            )
        for rule in self.triage.rules:
            if self.kind == "generation":
                break
            if rule.label is not None and rule.label not in self.labels:
                raise ValueError(f"rule {rule.name!r} gives {rule.label!r}, which is no label")
        unknown = set(self.label_titles) - set(self.labels)
        if unknown:
            raise ValueError(f"label_titles names {sorted(unknown)}, which are no labels")
        return self


class KafkaSettings(Settings):
    """[kafka]: empty ``bootstrap_servers`` means the local broker in the workspace."""

    bootstrap_servers: str = ""
    local_port: int = Field(19092, ge=1, le=65535)
    partitions: int = Field(4, ge=1, description="Partitions of the topics keyed by sample.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
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


class HttpSettings(Settings):
    """Where a process listens, and the credentials it asks for."""

    host: str = "127.0.0.1"
    port: int = Field(ge=1, le=65535)
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Bearer tokens that are accepted; from the environment, not the file."
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class GatewaySettings(HttpSettings):
    """[gateway]"""

    port: int = Field(8080, ge=1, le=65535)
    timeout_seconds: float = Field(30.0, gt=0, description="Longest wait for a model's answer.")
    requests_per_second: float | None = Field(None, gt=0, description="Limit per source.")
    burst: int = Field(50, ge=1)


class ConsoleSettings(HttpSettings):
    """[console]"""

    port: int = Field(8081, ge=1, le=65535)


class ServingSettings(Settings):
    """[serving]: model servers on this machine, or elsewhere by URL."""

    engine: Literal["embedded", "vllm"] = "embedded"
    host: str = Field("127.0.0.1", description="Where servers listen; they ask for no key.")
    ports: tuple[int, ...] = Field((8101, 8102), min_length=1, description="One server per port.")
    urls: tuple[str, ...] = Field((), description="Servers run elsewhere; replaces ports.")
    threads: int = Field(1, ge=1)
    max_batch: int = Field(16, ge=1)
    max_wait_ms: float = Field(2.0, ge=0)
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

    host: str = "127.0.0.1"
    worker_port: int = Field(8091, ge=1, le=65535)
    trainer_port: int = Field(8092, ge=1, le=65535)
    controller_port: int = Field(8093, ge=1, le=65535)


class FlywheelSettings(Settings):
    """The whole of flywheel.toml, with what the environment overrides."""

    workspace: Path = Field(exclude=True)
    database_url: str = Field("", description="Empty: SQLite in the workspace.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    kafka: KafkaSettings = KafkaSettings()
    gateway: GatewaySettings = GatewaySettings()
    console: ConsoleSettings = ConsoleSettings()
    serving: ServingSettings = ServingSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    tasks: dict[str, TaskSettings] = Field(min_length=1)

    @field_validator("tasks")
    @classmethod
    def _names(cls, tasks: dict[str, TaskSettings]) -> dict[str, TaskSettings]:
        for name in tasks:
            if not name.replace("-", "").replace("_", "").isalnum() or not name.islower():
                raise ValueError(f"{name!r}: a task's name is lower-case letters, digits, - and _")
        return tasks

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        for name, task in self.tasks.items():
            if task.model == "llm" and self.serving.engine != "vllm" and not self.serving.urls:
                raise ValueError(
                    f'tasks.{name}.model is "llm", which the embedded engine cannot serve: '
                    'set serving.engine = "vllm" (after `make vllm`), or serving.urls'
                )
            if task.model == "llm" and task.lora.rank > self.serving.vllm.max_rank:
                raise ValueError(
                    f"tasks.{name}.lora.rank is {task.lora.rank}, but adapters are served up to "
                    f"serving.vllm.max_rank = {self.serving.vllm.max_rank}: raise that"
                )
        for name, http in (("gateway", self.gateway), ("console", self.console)):
            if not http.loopback and not http.api_keys:
                raise ValueError(
                    f"{name}.host {http.host!r} is reachable from other machines: set "
                    f"FLYWHEEL_{name.upper()}_API_KEYS, or listen on 127.0.0.1"
                )
        return self

    @property
    def state(self) -> Path:
        """The folder of all that is neither configuration nor versioned: database, logs, data."""
        return self.workspace / ".flywheel"

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.state / 'flywheel.db'}"

    def task(self, name: str) -> TaskSettings:
        """The settings of one task. Raises ConfigurationError for a name that is not there."""
        try:
            return self.tasks[name]
        except KeyError:
            known = ", ".join(sorted(self.tasks))
            raise ConfigurationError(f"tasks.{name}", "no such task", f"known: {known}") from None


_ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "FLYWHEEL_DATABASE_URL": ("database_url",),
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
}
_SECRETS = (("kafka", "sasl_password"), ("gateway", "api_keys"), ("console", "api_keys"))


def load_settings(workspace: Path, environ: Mapping[str, str] | None = None) -> FlywheelSettings:
    """Read ``flywheel.toml`` of a workspace and what the environment overrides.

    Raises WorkspaceError when there is no such file and ConfigurationError, naming the key, for
    anything in it that is wrong.
    """
    environ = os.environ if environ is None else environ
    workspace = workspace.expanduser().resolve()
    path = workspace / CONFIG_FILE
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise WorkspaceError(
            f"{workspace} is no workspace: it has no {CONFIG_FILE}; make one with `flywheel init`"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(path), f"not valid TOML: {error}") from error
    for section, key in _SECRETS:
        if key in raw.get(section, {}):
            variable = next(n for n, p in _ENVIRONMENT.items() if p == (section, key))
            raise ConfigurationError(
                f"{section}.{key}", "secrets do not belong in the file", f"set {variable} instead"
            )
    for variable, keys in _ENVIRONMENT.items():
        if variable not in environ:
            continue
        value: object = environ[variable]
        if keys[-1] in {"api_keys", "urls"}:
            value = tuple(part for part in environ[variable].split(",") if part)
        table = raw
        for key in keys[:-1]:
            table = table.setdefault(key, {})
        table[keys[-1]] = value
    for task in raw.get("tasks", {}).values():
        training = task.get("training", {}) if isinstance(task, dict) else {}
        if isinstance(training.get("base_model"), str):
            training["base_model"] = os.path.join(workspace, training["base_model"])
    try:
        return FlywheelSettings(workspace=workspace, **raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or CONFIG_FILE
        more = error.error_count() - 1
        hint = f"and {more} more" if more else ""
        raise ConfigurationError(key, first["msg"].removeprefix("Value error, "), hint) from error
