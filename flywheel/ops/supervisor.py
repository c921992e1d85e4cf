"""All processes of a workspace under one supervisor (supervisord): start, watch, restart, stop."""

from __future__ import annotations

import hashlib
import http.client
import os
import shlex
import shutil
import socket
import sys
import tempfile
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.compression.llm_quantize import find_compressor
from flywheel.contracts.layout import Layout
from flywheel.contracts.private_files import private_folder
from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.serving.vllm.machine import find_installation
from flywheel.settings import FlywheelSettings

# Below this a broker or a training run would fail half-way, with a worse message.
_MIN_FREE_BYTES = 500 * 1024 * 1024
# The program that all others need: started first, ended last.
BROKER = "kafka"


@dataclass(frozen=True)
class Program:
    """One supervised process: its name, `flywheel` arguments, and the key of the port it needs."""

    name: str
    arguments: tuple[str, ...]
    port: int | None = None
    port_key: str = ""
    host: str = "127.0.0.1"
    health: str | None = None
    stop_seconds: int = 30


def programs(settings: FlywheelSettings) -> list[Program]:
    """What `flywheel up` runs, in the order in which it is started."""
    processes: list[Program] = []
    if settings.kafka.local:
        port = settings.kafka.local_port
        processes.append(Program(BROKER, ("kafka", "run"), port, "kafka.local_port"))
    if not settings.serving.urls:
        for port in settings.serving.ports:
            arguments = ("serve", "--port", str(port))
            host, url = settings.serving.host, address(settings.serving.host, port)
            processes.append(
                Program(f"model-{port}", arguments, port, "serving.ports", host, f"{url}/healthz")
            )
    for name, web in (("gateway", settings.gateway), ("console", settings.console)):
        url = f"{address(web.host, web.port)}/healthz"
        processes.append(Program(name, (name,), web.port, f"{name}.port", web.host, url))
    host = settings.monitoring.host
    agents = settings.worker.shares
    for number, (port, share) in enumerate(zip(settings.worker_ports, agents, strict=False), 1):
        name = "worker" if number == 1 else f"worker-{number}"
        started: tuple[str, ...] = ("worker",)
        if len(agents) > 1:
            started += ("--agents", ",".join(share), "--port", str(port))
        url = f"{address(host, port)}/healthz"
        key = "monitoring.worker_port"
        processes.append(Program(name, started, port, key, host, url))
    for name in ("trainer", "controller"):
        port = getattr(settings.monitoring, f"{name}_port")
        url = f"{address(host, port)}/healthz"
        processes.append(Program(name, (name,), port, f"monitoring.{name}_port", host, url))
    return processes


def address(host: str, port: int) -> str:
    """The URL under which this machine reaches what listens on ``host``."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def flywheel_command(settings: FlywheelSettings, name: str) -> str:
    """A command on this workspace as a person can type it anywhere, quoted for a message."""
    return f"`flywheel -w {shlex.quote(str(settings.workspace))} {name}`"


def socket_path(settings: FlywheelSettings) -> Path:
    """Where the supervisor of this user and this workspace listens."""
    # A UNIX socket's path is limited to 107 bytes, a workspace's is not.
    key = hashlib.sha256(str(settings.workspace).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"flywheel-{os.getuid()}-{key}.sock"


def _quote(value: str) -> str:
    return value.replace("%", "%%").replace('"', '\\"')


def configuration(settings: FlywheelSettings) -> str:
    """The supervisord configuration of a workspace, in which supervisord must be started.

    Its paths are relative: a workspace may have any character in its path, and supervisord reads
    "%", ";" and quotes as its own, some of them twice.
    """
    here = Layout(Path())
    lines = [
        "[supervisord]",
        "nodaemon=true",
        "silent=true",
        f"logfile={here.log('supervisor')}",
        "logfile_maxbytes=5MB",
        f"pidfile={here.supervisor_pid}",
        f"childlogdir={here.logs}",
        "[unix_http_server]",
        f"file={_quote(str(socket_path(settings)))}",
        "chmod=0700",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    command = f'"{_quote(sys.executable)}" -m flywheel'
    for priority, program in enumerate(programs(settings)):
        lines += [
            f"[program:{program.name}]",
            f"command={command} {' '.join(program.arguments)}",
            'environment=FLYWHEEL_WORKSPACE="."',
            f"priority={priority}",
            "autorestart=true",
            "startsecs=1",
            # A process that cannot start now (its port still in use, the broker away) is tried
            # again for ever: giving up needs a person, and a person can run `flywheel down`.
            "startretries=1000000",
            f"stopwaitsecs={program.stop_seconds}",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={here.log(program.name)}",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
        ]
    return "\n".join(lines) + "\n"


def check_ports(settings: FlywheelSettings) -> None:
    """Raises WorkspaceError naming the setting of the first port that something else holds."""
    for problem in taken_ports(settings):
        raise WorkspaceError(f"{problem.problem}: {problem.hint}")


def taken_ports(settings: FlywheelSettings) -> Iterator[ConfigurationError]:
    """Every port that our processes need and something else holds, with its key."""
    for program in programs(settings):
        if program.port is None:
            continue
        # The broker's controller listens on the port after the broker's.
        ports = (program.port, program.port + 1) if program.name == BROKER else (program.port,)
        for port in ports:
            try:
                _probe(program.host, port)
            except OSError as error:
                yield ConfigurationError(
                    program.port_key,
                    f"port {port}, which {program.name} needs, is taken ({error.strerror})",
                    f"stop what uses it, or change {program.port_key} in {settings.layout.config}",
                )


def _probe(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def check_engine(settings: FlywheelSettings) -> None:
    """Raises ConfigurationError when model servers are to run vLLM here and it is not installed."""
    serving = settings.serving
    if serving.engine == "vllm" and not serving.urls and not serving.vllm.urls:
        find_installation(serving.vllm, os.environ)


def check_compressor(settings: FlywheelSettings) -> None:
    """Raises ConfigurationError when a language model is to be quantised and the compressor is
    not installed: a turn would find out after it has trained."""
    for task in settings.tasks.values():
        wanted = (task.compression.recipe(name).quantise for name in task.compression.variants)
        if task.model == "llm" and any(quantise != "none" for quantise in wanted):
            find_compressor(os.environ)


def check_disk(settings: FlywheelSettings) -> None:
    """Raises WorkspaceError when the disk of the workspace is nearly full."""
    free = shutil.disk_usage(settings.workspace).free
    if free < _MIN_FREE_BYTES:
        raise WorkspaceError(
            f"only {free // 2**20} MiB are free where {settings.workspace} lies; at least "
            f"{_MIN_FREE_BYTES // 2**20} MiB are needed: make room, or use another --workspace"
        )


def write_configuration(settings: FlywheelSettings) -> Path:
    """Write the supervisord configuration and return its path."""
    private_folder(settings.state)
    private_folder(settings.layout.logs)
    path = settings.layout.supervisor_config
    path.write_text(configuration(settings), "utf-8")
    return path


def command(settings: FlywheelSettings) -> list[str]:
    """The command that runs the supervisor in the foreground, to be started in the workspace."""
    conf = write_configuration(settings)
    # -W: supervisord warns about its own imports and about running as root.
    return [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-n", "-c", str(conf)]


class Supervisor:
    """A running supervisor of a workspace, through its UNIX socket."""

    def __init__(self, settings: FlywheelSettings) -> None:
        self._settings = settings
        self._path = socket_path(settings)

    def _call(self, method: str, *arguments: object) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        # A transport of its own for each call: after an error a connection cannot be used again.
        transport = SupervisorTransport(None, None, f"unix://{self._path}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except (OSError, xmlrpc.client.Error, http.client.HTTPException) as error:
            raise WorkspaceError(
                f"no supervisor answers for {self._settings.workspace} ({error}): start it with "
                + flywheel_command(self._settings, "up")
            ) from error

    def processes(self) -> dict[str, dict[str, Any]]:
        """Name → supervisord's facts (statename, pid, start, description)."""
        return {str(row["name"]): dict(row) for row in self._call("getAllProcessInfo")}

    def shutdown(self) -> None:
        """Stop every process, then the supervisor."""
        self._call("shutdown")


def log_tail(settings: FlywheelSettings, name: str, lines: int = 15) -> str:
    """The last lines of a process' log."""
    path = settings.layout.log(name)
    if not path.exists():
        return f"(no log yet at {path})"
    return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-lines:])
