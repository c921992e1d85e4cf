"""`flywheel up` before it starts anything: who holds the workspace, ports, disk, configuration."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka_fixture import free_port

from flywheel.contracts.agents import AGENTS
from flywheel.errors import ConfigurationError, WorkspaceError
from flywheel.ops import await_healthy, shutdown, supervisor, up_lock
from flywheel.ops.announce import announce
from flywheel.ops.await_healthy import wait_healthy
from flywheel.ops.template import flywheel_toml
from flywheel.settings import FlywheelSettings, load_settings

HOLDER = """
import sys
from pathlib import Path
from flywheel.ops.up_lock import lock
from flywheel.settings import load_settings
held = lock(load_settings(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""
# What supervisord takes for an expansion, a comment, a quote or the end of a value.
ODD_NAMES = ["plain", "two words", "100%", "%d %(here)s %%", 'a "quoted" one', "it's; #1, a=b é"]


def workspace(folder: Path, **values: object) -> FlywheelSettings:
    folder.mkdir(parents=True, exist_ok=True)
    text = flywheel_toml("species", ["animal", "plant"], "models/base", values=values)
    (folder / "flywheel.toml").write_text(text, "utf-8")
    return load_settings(folder, {})


def flywheel(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flywheel", "-w", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    workspace(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_up_is_refused_and_names_the_first(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    refused = flywheel(tmp_path, "up")
    assert refused.returncode == 1
    assert f"process {holder.pid}" in refused.stderr
    assert f"`flywheel -w {tmp_path} down`" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_the_lock_of_a_killed_up_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    settings = load_settings(tmp_path, {})
    with pytest.raises(WorkspaceError, match=str(holder.pid)):
        up_lock.lock(settings)
    holder.kill()
    holder.wait()
    up_lock.lock(settings).close()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("kafka_port", "kafka.local_port"),
        ("gateway_port", "gateway.port"),
        ("console_port", "console.port"),
        ("worker_port", "monitoring.worker_port"),
        ("trainer_port", "monitoring.trainer_port"),
        ("controller_port", "monitoring.controller_port"),
        ("serving_ports", "serving.ports"),
    ],
)
def test_a_taken_port_is_named_with_its_key(tmp_path: Path, name: str, key: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        values: dict[str, Any] = free_ports()
        values[name] = [port] if name == "serving_ports" else port
        settings = workspace(tmp_path, **values)
        with pytest.raises(WorkspaceError) as caught:
            supervisor.check_ports(settings)
    assert f"port {port}" in str(caught.value)
    assert key in str(caught.value)
    assert str(tmp_path / "flywheel.toml") in str(caught.value)
    supervisor.check_ports(settings)


def free_ports() -> dict[str, Any]:
    names = ("kafka", "gateway", "console", "worker", "trainer", "controller")
    return {f"{name}_port": free_port() for name in names} | {"serving_ports": [free_port()]}


def test_the_port_of_the_brokers_controller_is_looked_at_too(tmp_path: Path) -> None:
    values = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", values["kafka_port"] + 1))
        taken.listen()
        settings = workspace(tmp_path, **values)
        with pytest.raises(WorkspaceError, match=r"kafka\.local_port"):
            supervisor.check_ports(settings)


def test_ports_of_processes_that_run_elsewhere_are_not_asked_for(tmp_path: Path) -> None:
    workspace(tmp_path)
    settings = load_settings(
        tmp_path,
        {
            "FLYWHEEL_KAFKA_BOOTSTRAP_SERVERS": "broker:9092",
            "FLYWHEEL_SERVING_URLS": "http://one:8101,http://two:8101",
        },
    )
    names = [program.name for program in supervisor.programs(settings)]
    workers = [name for name in names if name.startswith("worker-")]
    assert names == ["gateway", "console", "worker", *workers, "trainer", "controller"]
    assert settings.serving.endpoints == ("http://one:8101", "http://two:8101")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8091/healthz"),  # noqa: S104
        ("::", "http://[::1]:8091/healthz"),
        ("10.1.2.3", "http://10.1.2.3:8091/healthz"),
    ],
)
def test_health_is_asked_for_where_a_process_listens(tmp_path: Path, host: str, url: str) -> None:
    workspace(tmp_path)
    settings = load_settings(tmp_path, {"FLYWHEEL_MONITORING_HOST": host})
    worker = next(p for p in supervisor.programs(settings) if p.name == "worker")
    assert worker.health == url


@pytest.mark.parametrize(
    ("cores", "setting", "processes"),
    [(1, "auto", 1), (2, "auto", 2), (3, "auto", 3), (16, "auto", 4), (1, 4, 4), (16, 1, 1)],
)
def test_agents_share_as_many_processes_as_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, setting: object, processes: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    settings = workspace(tmp_path, **{"worker.processes": setting})
    workers = [one for one in supervisor.programs(settings) if one.name.startswith("worker")]
    assert len(workers) == processes
    ports = [one.port for one in workers]
    assert len(set(ports)) == processes
    assert ports[0] == settings.monitoring.worker_port
    others = [one.port for one in supervisor.programs(settings) if one not in workers]
    assert not set(ports) & set(others)
    assert all(one.health == f"http://127.0.0.1:{one.port}/healthz" for one in workers)
    if processes == 1:
        assert workers[0].arguments == ("worker",)
        return
    shares = [one.arguments[one.arguments.index("--agents") + 1] for one in workers]
    assert sorted(",".join(shares).split(",")) == sorted(AGENTS)
    for one in workers:
        assert one.arguments[-2:] == ("--port", str(one.port))


@pytest.mark.parametrize("setting", [0, 5, "many"])
def test_agents_take_no_other_number_of_processes(tmp_path: Path, setting: object) -> None:
    with pytest.raises(ConfigurationError, match=r"worker\.processes"):
        workspace(tmp_path, **{"worker.processes": setting})


def test_a_nearly_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = workspace(tmp_path)
    supervisor.check_disk(settings)
    total, used, _ = shutil.disk_usage(tmp_path)
    # A full disk cannot be made here without rights to mount one.
    full = type(shutil.disk_usage(tmp_path))(total, used, 20 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(WorkspaceError, match=r"only 20 MiB are free .* make room"):
        supervisor.check_disk(settings)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_supervisord_reads_the_configuration_as_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = workspace(tmp_path / name)
    up_lock.lock(settings).close()
    command = supervisor.command(settings)
    monkeypatch.chdir(settings.workspace)
    options = parsed(command[command.index("-c") + 1])
    logs = settings.state / "logs"
    assert options.logfile == str(logs / "supervisor.log")
    assert Path(options.childlogdir).resolve() == logs
    assert options.nodaemon
    found = {group.name: group for group in options.process_group_configs}
    assert list(found) == [program.name for program in supervisor.programs(settings)]
    for program in supervisor.programs(settings):
        (process,) = found[program.name].process_configs
        assert Path(process.stdout_logfile).resolve() == logs / f"{program.name}.log"
        assert shlex.split(process.command) == [
            sys.executable,
            "-m",
            "flywheel",
            *program.arguments,
        ]
        # Relative to the folder in which supervisord runs.
        assert process.environment == {"FLYWHEEL_WORKSPACE": "."}
        assert process.stopasgroup


def parsed(path: str) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from supervisor.options import ServerOptions

        options = ServerOptions()
        options.realize(["-n", "-c", path], doc="")
    return options


def test_the_socket_path_of_a_deep_workspace_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = workspace(tmp_path / ("d" * 120) / ("e" * 120))
    up_lock.lock(settings).close()
    monkeypatch.chdir(settings.workspace)
    options = parsed(str(supervisor.write_configuration(settings)))
    assert len(options.server_configs[0]["file"]) < 100


def test_without_a_log_the_tail_says_where_it_would_be(tmp_path: Path) -> None:
    settings = workspace(tmp_path)
    assert "gateway.log" in supervisor.log_tail(settings, "gateway")
    (settings.state / "logs").mkdir(parents=True)
    path = settings.state / "logs" / "gateway.log"
    path.write_text("".join(f"line {number}\n" for number in range(50)), "utf-8")
    assert supervisor.log_tail(settings, "gateway", 2) == "line 48\nline 49"


def test_what_does_not_come_up_is_named_with_its_log(tmp_path: Path) -> None:
    settings = workspace(tmp_path, **free_ports())
    with (
        up_lock.lock(settings),
        pytest.raises(WorkspaceError, match=r"(?s)kafka did not come up .*no log yet"),
    ):
        wait_healthy(settings, 0)


def test_waiting_ends_where_no_supervisor_comes(tmp_path: Path) -> None:
    settings = workspace(tmp_path, **free_ports())
    with pytest.raises(WorkspaceError, match="no supervisor runs") as caught:
        wait_healthy(settings, 3600, grace=0.3)
    assert f"`flywheel -w {tmp_path} up`" in str(caught.value)
    assert "kafka" not in str(caught.value)
    log = settings.layout.log("supervisor")
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(50)), "utf-8")
    with pytest.raises(WorkspaceError, match=r"(?s)supervisor's log:\nline 45\n.*line 49$"):
        wait_healthy(settings, 0)


def test_waiting_ends_with_the_up_that_it_waits_for(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    threading.Timer(0.5, holder.kill).start()
    with pytest.raises(WorkspaceError, match="ended before all was healthy"):
        wait_healthy(load_settings(tmp_path), 3600, grace=3600)


def test_up_says_who_is_not_healthy_yet_and_stops_with_the_supervisor(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        holder.kill()

    announce(load_settings(tmp_path), say, patience=0.0)
    (line,) = said
    assert line.startswith("not yet healthy: kafka did not come up in 0 s; the end of its log:")


def test_up_says_when_all_is_healthy_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(await_healthy, "programs", lambda _: [])
    said: list[str] = []
    settings = workspace(tmp_path)
    with up_lock.lock(settings):
        announce(settings, said.append)
    assert said == [
        "all is healthy after 0 s: console http://127.0.0.1:8081  gateway http://127.0.0.1:8080"
    ]


def test_an_up_that_fails_is_noticed_by_who_waits(tmp_path: Path) -> None:
    settings = workspace(tmp_path, **free_ports())  # it has no base model
    command = [sys.executable, "-m", "flywheel", "-w", str(tmp_path), "up"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as up:
        ended = "ended before all was healthy|no supervisor runs"
        with pytest.raises(WorkspaceError, match=ended):
            wait_healthy(settings, 3600, grace=3.0)
        assert up.wait(60) == 1


def test_without_a_supervisor_status_says_what_to_do(tmp_path: Path) -> None:
    workspace(tmp_path / "two words")
    said = flywheel(tmp_path / "two words", "status")
    assert (said.returncode, said.stderr) == (1, "")
    assert f"nothing runs: start it with `flywheel -w '{tmp_path}/two words' up`" in said.stdout


def test_down_of_what_does_not_run_says_so(tmp_path: Path) -> None:
    workspace(tmp_path)
    done = flywheel(tmp_path, "down")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "nothing of this workspace runs\n"


def test_who_only_looks_at_the_lock_keeps_no_up_from_starting(tmp_path: Path) -> None:
    settings = workspace(tmp_path)
    up_lock.lock(settings).close()
    looks = threading.Event()

    def look() -> None:
        while not looks.is_set():
            up_lock.holder(settings)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(300):
            up_lock.lock(settings).close()
    finally:
        looks.set()
        watcher.join()


def test_down_ends_an_up_that_has_not_started_its_supervisor_yet(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    assert up_lock.holder(load_settings(tmp_path, {})) == holder.pid
    done = flywheel(tmp_path, "down")
    assert (done.returncode, done.stderr) == (0, "")
    assert holder.wait() == -signal.SIGTERM


def test_down_touches_no_process_that_only_has_the_noted_pid(tmp_path: Path) -> None:
    settings = workspace(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        held = up_lock.lock(settings)
        held.truncate(0)
        held.write(str(other.pid))
        held.flush()
        shutdown._terminate(settings, other.pid)
        assert other.poll() is None
        other.communicate(b"\n")
        held.close()
