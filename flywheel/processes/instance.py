"""What a process is called among others of its kind: its host, and a number that is free there."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field

import structlog
from prometheus_client import Gauge

from flywheel.contracts.file_locks import FileLock
from flywheel.contracts.ids import new_id
from flywheel.contracts.leases import holder_of
from flywheel.settings import FlywheelSettings

_info = Gauge("flywheel_instance", "1, with what this process is called.", ["process", "name"])


@dataclass(frozen=True, slots=True)
class Instance:
    """``name`` is a running process' alone in its workspace, and its successor's after a restart;
    ``holder`` was never another process' anywhere."""

    kind: str
    name: str
    lock: FileLock
    holder: str = field(default="")

    @property
    def client_id(self) -> str:
        """By what Kafka's brokers know it."""
        return f"flywheel-{self.kind}-{self.name}"


def claim(settings: FlywheelSettings, kind: str) -> Instance:
    """The first name that no process of this kind has; kept until this one ends."""
    base = settings.instances.of(kind) or _host()
    number = 1
    while True:
        name = f"{base}-{number}"
        lock = FileLock.take(settings.layout.instance_lock(kind, name))
        if lock is not None:
            break
        number += 1
    structlog.contextvars.bind_contextvars(instance=name)
    _info.labels(kind, name).set(1)
    return Instance(kind, name, lock, holder_of(kind, name, new_id()))


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("._-")[:90] or "host"
