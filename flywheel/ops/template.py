"""The commented flywheel.toml that `flywheel init` writes: each key, its default and meaning."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from flywheel.compression.config import USUAL as USUAL_VARIANTS
from flywheel.contracts.configuration import Settings, nearest, table_of
from flywheel.contracts.model_folder import ModelKind
from flywheel.errors import ConfigurationError
from flywheel.kinds import USUAL
from flywheel.kinds import of as kind_of
from flywheel.settings import ENVIRONMENT, FlywheelSettings
from flywheel.task_settings import TaskSettings, ignored_keys

_HEAD = """\
# What this workspace does. Every key has a default unless it says "required"; the commented ones
# stand at theirs. A wrong value stops every process at its start, naming the key; `flywheel config
# check` says it beforehand. Secrets never stand here, but in the environment:
#   FLYWHEEL_GATEWAY_API_KEYS, FLYWHEEL_CONSOLE_API_KEYS   comma-separated bearer tokens
#   FLYWHEEL_METRICS_KEY                                   bearer token for /metrics
#   FLYWHEEL_KAFKA_SASL_PASSWORD, FLYWHEEL_DATABASE_URL
"""

# Short names of the keys that most tasks look at first; the file sets these, commented or not.
SHORT: Mapping[str, str] = {
    "kafka_port": "kafka.local_port",
    "gateway_port": "gateway.port",
    "console_port": "console.port",
    "serving_ports": "serving.ports",
    "engine": "serving.engine",
    "variants": "compression.variants",
    "worker_port": "monitoring.worker_port",
    "trainer_port": "monitoring.trainer_port",
    "controller_port": "monitoring.controller_port",
    "audit_rate": "triage.audit_rate",
    "rollout_audit_rate": "triage.rollout_audit_rate",
    "uncertain_below": "triage.uncertain_below",
    "uncertain_share": "triage.uncertain_share",
    "auto_label_error": "triage.auto_label_error",
    "min_audits": "triage.min_audits",
    "guideline": "review.guideline",
    "auto_labels_per_expert": "dataset.auto_labels_per_expert",
    "min_new_labels": "retraining.min_new_labels",
    "max_regression": "gate.max_regression",
    "steps": "rollout.steps",
    "min_requests": "rollout.min_requests",
    "min_labels": "rollout.min_labels",
    "accuracy_margin": "rollout.accuracy_margin",
    "latency_margin": "rollout.latency_margin",
    "max_minutes": "rollout.max_minutes",
    "warm_seconds": "rollout.warm_seconds",
}
_ALSO_SET = (
    "log_level",
    "gateway.host",
    "console.host",
    "serving.threads",
    "review.answers_needed",
)
# What an example of a rule looks like; its other keys stand at their defaults.
_EXAMPLES: Mapping[str, object] = {
    "triage.rules.name": "mentions a dose",
    "triage.rules.pattern": r"(?i)\b\d+ ?mg\b",
}
_COLUMN, _WIDTH = 38, 100


def default_of(path: str) -> object:
    """The default of a key, such as "gateway.port" or "triage.audit_rate"."""
    table: type[Settings] = _root(path)
    *tables, name = path.split(".")
    for part in tables:
        table = table_of(table.model_fields[part].annotation) or table
    default = table.model_fields[name].get_default(call_default_factory=True)
    return list(default) if isinstance(default, tuple) else default


def _root(path: str) -> type[Settings]:
    first = path.partition(".")[0]
    return FlywheelSettings if first in FlywheelSettings.model_fields else TaskSettings


DEFAULTS: Mapping[str, object] = {name: default_of(path) for name, path in SHORT.items()}


def flywheel_toml(
    task: str,
    labels: Sequence[str],
    base_model: str,
    *,
    title: str = "",
    label_titles: Mapping[str, str] | None = None,
    kind: str = USUAL,
    model: ModelKind = "encoder",
    values: Mapping[str, object] | None = None,
) -> str:
    """The text of a flywheel.toml for one task.

    ``values`` replace keys by their short name of ``SHORT`` or as "table.key", such as
    "triage.auto_label_risk" or "serving.vllm.dtype" ("vllm.dtype"). Raises ConfigurationError for
    any other.
    """
    if re.fullmatch(r"[a-z0-9_-]+", task) is None:
        raise ConfigurationError(
            f"tasks.{task}", "a task's name is lower-case letters, digits, - and _"
        )
    keys: dict[str, object] = {path: default_of(path) for path in (*SHORT.values(), *_ALSO_SET)}
    keys |= {"title": title or task, "training.base_model": base_model}
    keys["compression.variants"] = list(USUAL_VARIANTS[model])
    if model == "llm":
        keys |= {"model": model, "serving.engine": "vllm"}
    of_kind = kind_of(kind)
    keys |= of_kind.keys(labels, label_titles or {})
    keys |= {full_path(key): value for key, value in (values or {}).items()}
    ignored = {*ignored_keys(model, of_kind), *of_kind.without_keys, *_FOREIGN_STEPS[model]}
    return "\n".join(_File(task, keys, ignored).lines()) + "\n"


def full_path(key: str) -> str:
    """The full path of a key as people give it. Raises ConfigurationError for any other."""
    if key in SHORT:
        return SHORT[key]
    first, dot, _ = key.partition(".")
    if first == "vllm":
        return f"serving.{key}"
    field = _root(key).model_fields.get(first)
    if key in ("log_level", "database_url") or (
        dot and first != "tasks" and field is not None and table_of(field.annotation)
    ):
        return key
    meant = nearest(key, SHORT)
    known = ", ".join([*SHORT, "TABLE.KEY for any other"])
    raise ConfigurationError(
        key,
        "not a key of the template",
        f"known: {known}" + (f"; did you mean {meant!r}?" if meant else ""),
    )


def _place(path: str) -> tuple[str, str]:
    """(table, key in it) of a path; the key has dots where it is below tables that have names."""
    table: type[Settings] = _root(path)
    above: list[str] = []
    parts = path.split(".")
    while len(parts) > 1:
        field = table.model_fields.get(parts[0])
        below = table_of(field.annotation) if field else None
        if field is None or below is None or get_origin(field.annotation):
            break
        table = below
        above.append(parts.pop(0))
    return ".".join(above) or _root(path).__name__, ".".join(parts)


class _File:
    """One file in the making. ``keys`` are those that are set, ``ignored`` those left out."""

    def __init__(self, task: str, keys: Mapping[str, object], ignored: set[str]) -> None:
        self._task = task
        self._ignored = ignored
        self._keys: dict[str, dict[str, object]] = {}
        for path, value in keys.items():
            table, name = _place(path)
            self._keys.setdefault(table, {})[name] = value

    def lines(self) -> list[str]:
        """All of it."""
        return [_HEAD, *self._table(FlywheelSettings, "", "")]

    def _table(self, kind: type[Settings], path: str, header: str) -> list[str]:
        """A table and those below it. ``path`` is how its keys are named, ``header`` where they
        stand in the file."""
        given = dict(self._keys.get(path or kind.__name__, {}))
        lines: list[str] = ["", f"# {_about(kind)}", f"[{header}]"] if header else []
        examples: list[str] = []
        below: list[str] = []
        for name, field in kind.model_fields.items():
            where, table = _join(path, name), table_of(field.annotation)
            if where in self._ignored or field.exclude:
                continue
            if name == "tasks":
                below += self._table(TaskSettings, "", f"tasks.{self._task}")
            elif table is None:
                lines += _key(where, field, *([given.pop(name)] if name in given else []))
            elif not get_origin(field.annotation):
                below += self._table(table, where, _join(header, name))
            elif not any(key.partition(".")[0] == name for key in given):
                listed = get_origin(field.annotation) is tuple
                head = _join(header, name)
                examples += self._example(
                    table, where, f"[[{head}]]" if listed else f"[{head}.small]"
                )
        # What is left are recipes and rules, and mistakes, which the settings refuse better.
        lines += [f"{name} = {toml_value(value)}" for name, value in given.items()]
        # Below an example, once that is uncommented, a key would belong to it.
        return [*lines, *examples, *below]

    def _example(self, kind: type[Settings], where: str, head: str) -> list[str]:
        """A table that has a name or a number, all of it commented."""
        lines = [f"# {_about(kind)}", f"# {head}"]
        for name, field in kind.model_fields.items():
            path = _join(where, name)
            if path not in self._ignored:
                lines += _key(path, field)
        return lines


# Steps of a recipe that the other kind of model takes.
_FOREIGN_STEPS: Mapping[str, set[str]] = {
    "encoder": {"compression.recipes.merge"},
    "llm": {
        f"compression.recipes.{name}"
        for name in ("distil_to", "teacher", "prune_heads", "prune_ffn", "epochs")
    },
}


def _key(where: str, field: FieldInfo, *value: object) -> list[str]:
    """The lines of one key: set to ``value``, or commented at its default."""
    name = where.rpartition(".")[2]
    about = _description(where, field)
    if _is_secret(field):
        return _commented(f"# {name}: {about}")
    if value:
        return _line(f"{name} = {toml_value(value[0])}", about)
    default = field.get_default(call_default_factory=True)
    if where in _EXAMPLES:
        default = _EXAMPLES[where]
    elif default is None:
        default, about = (field.examples or [""])[0], f"{about} Unset by default."
    return _line(f"# {name} = {toml_value(default)}", about)


def _description(where: str, field: FieldInfo) -> str:
    about = field.description or ""
    choices = [choice for choice in _choices(field.annotation) if isinstance(choice, str)]
    if choices:
        about += f" One of {', '.join(choices)}."
    if field.is_required():
        about = f"Required. {about}"
    variable = next((n for n, path in ENVIRONMENT.items() if ".".join(path) == where), None)
    if variable and not _is_secret(field):
        about += f" Or {variable}."
    return about


def _choices(annotation: Any) -> Sequence[object]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    for one in get_args(annotation):
        if get_origin(one) is Literal:
            return get_args(one)
    return ()


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


def _about(kind: type[Settings]) -> str:
    """What a table is for: its class's docstring, after the table's name."""
    first = (kind.__doc__ or "").partition("\n")[0]
    words = first.partition("]: ")[2] or first
    return words[:1].upper() + words[1:]


def _join(table: str, name: str) -> str:
    return f"{table}.{name}" if table else name


def _line(assignment: str, about: str) -> list[str]:
    """A key with its explanation beside it, or above where there is no room."""
    if len(assignment) >= _COLUMN:
        return [*_commented(f"# {about}"), assignment]
    first, *more = textwrap.wrap(about, _WIDTH - _COLUMN - 2) or [""]
    rest = [f"{'':{_COLUMN}}# {words}" for words in more]
    return [f"{assignment:{_COLUMN}}# {first}", *rest]


def _commented(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="# ")


def toml_value(value: object) -> str:
    """A value as flywheel.toml writes it."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(str(k))} = {toml_value(v)}" for k, v in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, str) and "\\" in value and "'" not in value:
        return f"'{value}'"
    # TOML's strings, numbers, booleans and arrays of them are written as JSON writes them.
    return json.dumps(value, ensure_ascii=False, default=str)
