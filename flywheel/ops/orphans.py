"""Processes that a workspace's supervisor started, also when that supervisor is gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from flywheel.ops.supervisor import BROKER, socket_path
from flywheel.settings import FlywheelSettings

# As long as the supervisor gives each of them, and then as long as the kernel may need.
ASKED_SECONDS = 30.0
KILLED_SECONDS = 10.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Member:
    """A running process of the workspace: the program it belongs to, and its pid."""

    name: str
    pid: int


def members(settings: FlywheelSettings) -> list[Member]:
    """Every process that a supervisor of this workspace started, and what those started.

    The proof is in a process' own environment: supervisord hands down its address, whose name is
    made of this user and this workspace's path. A process that sees other files (in a container),
    of another user, or whose environment cannot be read, is nobody's here.
    """
    return [Member(name, process.pid) for name, process in _processes(settings)]


def _processes(settings: FlywheelSettings) -> Iterator[tuple[str, Any]]:
    import psutil

    ours = socket_path(settings).name
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real != os.getuid() or not _same_files(process.pid):
                continue
            environment = process.environ()
            if PurePath(environment.get("SUPERVISOR_SERVER_URL", "")).name != ours:
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                yield environment.get("SUPERVISOR_PROCESS_NAME", process.name()), process


def _same_files(pid: int) -> bool:
    """Whether a path means the same to that process; where there are no namespaces, it does."""
    if not os.path.exists("/proc/self/ns/mnt"):
        return True
    return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")


def names(members: Iterable[Member]) -> str:
    """Names for people: ``gateway (pid 12), worker (pid 13, 14)``."""
    pids: dict[str, list[str]] = {}
    for member in members:
        pids.setdefault(member.name, []).append(str(member.pid))
    return ", ".join(f"{name} (pid {', '.join(of_name)})" for name, of_name in pids.items())


def end(settings: FlywheelSettings) -> list[Member]:
    """End what a killed supervisor left: asked first, then killed; the broker after all others,
    which have something to send yet. Returns those that would not end."""
    left: list[Member] = []
    for chosen in (lambda name: name != BROKER, lambda name: name == BROKER):
        left += _end(settings, chosen)
    return left


def _end(settings: FlywheelSettings, chosen: Callable[[str], bool]) -> list[Member]:
    import psutil

    running: dict[Member, Any] = {}
    for sign, patience in ((signal.SIGTERM, ASKED_SECONDS), (signal.SIGKILL, KILLED_SECONDS)):
        asked: set[Member] = set()
        deadline = time.monotonic() + patience
        # Looked for again each time: what is being ended may still have started something.
        while running := {
            Member(name, process.pid): process
            for name, process in _processes(settings)
            if chosen(name)
        }:
            for member in running.keys() - asked:
                asked.add(member)
                with suppress(psutil.Error):
                    running[member].send_signal(sign)  # not to another that has its pid by now
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        else:
            return []
    return list(running)
