"""The commented flywheel.toml that `flywheel init` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from flywheel.errors import ConfigurationError

_TEMPLATE = """\
# What this workspace does. Every key here has a default unless it says "required"; a wrong value
# stops every process at its start, naming the key. Secrets never stand here:
#   FLYWHEEL_GATEWAY_API_KEYS, FLYWHEEL_CONSOLE_API_KEYS   comma-separated bearer tokens
#   FLYWHEEL_KAFKA_SASL_PASSWORD, FLYWHEEL_DATABASE_URL

# SQLite in the workspace; or "postgresql+psycopg://user@host/name" in FLYWHEEL_DATABASE_URL.
# database_url = ""
log_level = "info"

[kafka]
# Empty: Apache Kafka itself, run in this workspace on the loopback address.
# bootstrap_servers = "broker-1:9092,broker-2:9092"
# security_protocol = "SASL_SSL"
# sasl_mechanism = "SCRAM-SHA-512"
# sasl_username = "flywheel"
local_port = {kafka_port}

[gateway]
# An address that other machines reach needs FLYWHEEL_GATEWAY_API_KEYS.
host = "127.0.0.1"
port = {gateway_port}
# requests_per_second = 50      # per source; none by default

[console]
host = "127.0.0.1"
port = {console_port}

[serving]
engine = {engine}             # or "vllm", in an environment of its own: `make vllm`
# host = "127.0.0.1"              # model servers ask for no key: mind who reaches another one
ports = {serving_ports}
# urls = ["http://10.0.0.5:8101"]   # model servers run elsewhere
threads = 1

[serving.vllm]
# dtype = "auto"                  # `flywheel serve tune` tries them on this machine
# urls = ["http://10.0.0.7:8000"]   # vLLM servers run elsewhere, by release or base
{vllm}

[monitoring]
worker_port = {worker_port}
trainer_port = {trainer_port}
controller_port = {controller_port}

[tasks.{task}]
title = {title}
{task_keys}

[tasks.{task}.triage]
audit_rate = {audit_rate}             # share of traffic sent to experts at random
rollout_audit_rate = {rollout_audit_rate}     # the same while a challenger is compared
uncertain_below = {uncertain_below}         # calibrated confidence under which review is likely
uncertain_share = {uncertain_share}         # how much of that is sent: the budget
auto_label_error = {auto_label_error}       # largest error accepted among automatic labels
auto_label_risk = 0.1         # chance that this bound does not hold
min_audits = {min_audits}
# [[tasks.{task}.triage.rules]]
# name = "mentions a dose"
# pattern = '(?i)\\b\\d+ ?mg\\b'  # without a label: to an expert, always
# label = "..."               # with one: labelled by the rule

[tasks.{task}.review]
answers_needed = 1            # experts who must agree
lease_seconds = 300
guideline = {guideline}

[tasks.{task}.dataset]
calibration_share = 0.1       # kept from training to calibrate the result
auto_labels_per_expert = {auto_labels_per_expert}  # taken at most, per expert label

[tasks.{task}.retraining]
min_new_labels = {min_new_labels}          # a turn starts after so many
# max_age_hours = 168

[tasks.{task}.training]
base_model = {base_model}     # required: folder of the base model
{training}
{language_model}
[tasks.{task}.compression]
variants = {variants}   # each is made and measured; the cheapest that is no worse serves
# pin = "int8-dynamic"        # always this one
{compression}

[tasks.{task}.gate]
max_regression = {max_regression}         # non-inferiority margin on held-out accuracy

[tasks.{task}.rollout]
steps = {steps}      # the challenger's share of live traffic, step by step
min_requests = {min_requests}             # challenger requests at every step
min_labels = {min_labels}               # audited labels before promotion
accuracy_margin = {accuracy_margin}
latency_margin = {latency_margin}
max_minutes = {max_minutes}
warm_seconds = {warm_seconds}           # how long a challenger may take to answer on the servers
"""

DEFAULTS: dict[str, object] = {
    "kafka_port": 19092,
    "gateway_port": 8080,
    "console_port": 8081,
    "serving_ports": [8101, 8102],
    "engine": "embedded",
    "variants": ["int8-dynamic"],
    "worker_port": 8091,
    "trainer_port": 8092,
    "controller_port": 8093,
    "audit_rate": 0.05,
    "rollout_audit_rate": 0.25,
    "uncertain_below": 0.7,
    "uncertain_share": 0.5,
    "auto_label_error": 0.05,
    "min_audits": 30,
    "guideline": "",
    "auto_labels_per_expert": 0.5,
    "min_new_labels": 200,
    "max_regression": 0.02,
    "steps": [0.05, 0.25, 0.5],
    "min_requests": 50,
    "min_labels": 60,
    "accuracy_margin": 0.05,
    "latency_margin": 1.5,
    "max_minutes": 1440,
    "warm_seconds": 180.0,
}


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    # TOML's strings, numbers, booleans and arrays of them are written as JSON writes them.
    return json.dumps(value, ensure_ascii=False)


# Tables whose keys may be given as "table.key".
_TABLES = ("training", "compression", "vllm", "lora", "prompt")

_LANGUAGE_MODEL = """
[tasks.{task}.lora]
{lora}

[tasks.{task}.prompt]
{prompt}
"""


def flywheel_toml(
    task: str,
    labels: Sequence[str],
    base_model: str,
    *,
    title: str = "",
    label_titles: Mapping[str, str] | None = None,
    kind: str = "classification",
    model: str = "encoder",
    values: Mapping[str, object] | None = None,
) -> str:
    """The text of a flywheel.toml for one task.

    ``values`` replace keys of ``DEFAULTS``; "training.NAME" adds a key to the task's training, and
    likewise for compression, vllm, lora and prompt. Raises ConfigurationError for any other key.
    """
    if re.fullmatch(r"[a-z0-9_-]+", task) is None:
        raise ConfigurationError(
            f"tasks.{task}", "a task's name is lower-case letters, digits, - and _"
        )
    values = dict(values or {})
    tables: dict[str, list[str]] = {table: [] for table in _TABLES}
    for key in list(values):
        table, dot, name = key.partition(".")
        if dot and table in tables:
            tables[table].append(f"{name} = {_toml(values.pop(key))}")
    llm = model == "llm"
    if llm:
        values = {"engine": "vllm", "variants": ["w8a8"], **values}
    unknown = sorted(set(values) - set(DEFAULTS))
    if unknown:
        known = ", ".join([*DEFAULTS, *(f"{table}.NAME" for table in _TABLES)])
        raise ConfigurationError(unknown[0], "not a key of the template", f"known: {known}")
    extra = {table: "\n".join(lines) for table, lines in tables.items()}
    return _TEMPLATE.format(
        task=task,
        title=_toml(title or task),
        task_keys=_task_keys(labels, label_titles or {}, kind, model),
        base_model=_toml(base_model),
        training=extra["training"] or "# epochs = 4",
        compression=extra["compression"],
        vllm=extra["vllm"],
        language_model=_LANGUAGE_MODEL.format(
            task=task,
            lora=extra["lora"] or "# rank = 8",
            prompt=extra["prompt"] or '# system = "You sort questions."',
        )
        if llm
        else "",
        **{key: _toml(value) for key, value in {**DEFAULTS, **values}.items()},
    )


def _task_keys(labels: Sequence[str], titles: Mapping[str, str], kind: str, model: str) -> str:
    lines = []
    if kind != "classification":
        lines.append(f"kind = {_toml(kind)}")
    if model != "encoder":
        lines.append(f"model = {_toml(model)}")
    if kind == "classification":
        lines.append(f"labels = {_toml(list(labels))}                     # required")
        lines.append(f"label_titles = {_toml(dict(titles))}")
    return "\n".join(lines)
