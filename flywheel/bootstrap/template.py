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
engine = "embedded"
# host = "127.0.0.1"              # model servers ask for no key: mind who reaches another one
ports = {serving_ports}
# urls = ["http://10.0.0.5:8101"]   # model servers run elsewhere
threads = 1

[monitoring]
worker_port = {worker_port}
trainer_port = {trainer_port}
controller_port = {controller_port}

[tasks.{task}]
title = {title}
labels = {labels}                     # required
label_titles = {label_titles}

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
base_model = {base_model}     # required: folder of a sentence-transformers encoder
{training}

[tasks.{task}.compression]
variants = ["int8-dynamic"]   # each is made and measured; the cheapest that is no worse serves

[tasks.{task}.gate]
max_regression = {max_regression}         # non-inferiority margin on held-out accuracy

[tasks.{task}.rollout]
steps = {steps}      # the challenger's share of live traffic, step by step
min_requests = {min_requests}             # challenger requests at every step
min_labels = {min_labels}               # audited labels before promotion
accuracy_margin = {accuracy_margin}
latency_margin = {latency_margin}
max_minutes = {max_minutes}
"""

DEFAULTS: dict[str, object] = {
    "kafka_port": 19092,
    "gateway_port": 8080,
    "console_port": 8081,
    "serving_ports": [8101, 8102],
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
}


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    # TOML's strings, numbers, booleans and arrays of them are written as JSON writes them.
    return json.dumps(value, ensure_ascii=False)


def flywheel_toml(
    task: str,
    labels: Sequence[str],
    base_model: str,
    *,
    title: str = "",
    label_titles: Mapping[str, str] | None = None,
    values: Mapping[str, object] | None = None,
) -> str:
    """The text of a flywheel.toml for one classification task.

    ``values`` replace keys of ``DEFAULTS``; "training.NAME" adds a key to the task's training.
    Raises ConfigurationError for a key that is in neither.
    """
    if re.fullmatch(r"[a-z0-9_-]+", task) is None:
        raise ConfigurationError(
            f"tasks.{task}", "a task's name is lower-case letters, digits, - and _"
        )
    values = dict(values or {})
    training = {key: values.pop(key) for key in list(values) if key.startswith("training.")}
    unknown = sorted(set(values) - set(DEFAULTS))
    if unknown:
        known = ", ".join(DEFAULTS)
        raise ConfigurationError(unknown[0], "not a key of the template", f"known: {known}")
    rendered = {key: _toml(value) for key, value in {**DEFAULTS, **values}.items()}
    extra = "\n".join(f"{k.partition('.')[2]} = {_toml(v)}" for k, v in training.items())
    return _TEMPLATE.format(
        task=task,
        title=_toml(title or task),
        labels=_toml(list(labels)),
        label_titles=_toml(dict(label_titles or {})),
        base_model=_toml(base_model),
        training=extra or "# epochs = 4",
        **rendered,
    )
