"""Apache Kafka on this machine: one KRaft node whose data live in the workspace."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from flywheel.errors import BrokerError, WorkspaceError
from streams.local_broker.answers import answers
from streams.local_broker.configuration import (
    controller_port,
    log_properties,
    server_properties,
)
from streams.local_broker.jars import KAFKA_VERSION, cache_folder
from streams.local_broker.runtime import Runtime, kafka_runtime

MIN_FREE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """What there is to say about the local broker. ``pid`` is None when it does not run."""

    running: bool
    pid: int | None
    port: int
    version: str
    data: Path
    log: Path
    cluster_id: str | None


class LocalBroker:
    """The broker of one workspace. ``state`` is the workspace's state folder."""

    def __init__(self, state: Path, port: int, cache: Path | None = None) -> None:
        self.folder = state / "kafka"
        self.port = port
        self.data = self.folder / "data"
        self.log = state / "logs" / "kafka.log"
        self._cache = cache or cache_folder()
        self._lock_file = self.folder / "broker.lock"
        self._properties = self.folder / "server.properties"
        self._log_properties = self.folder / "log4j2.properties"
        self._child: subprocess.Popen[bytes] | None = None

    def prepare(self) -> list[str]:
        """Fetch and verify Kafka, write its settings, format its data folder the first time.

        Returns the command line that runs the broker. Changes nothing while a broker runs here.
        """
        runtime = kafka_runtime(self._cache)
        lock = self._lock()
        try:
            return self._prepare(runtime)
        finally:
            os.close(lock)

    def run_foreground(self) -> int:
        """Become the broker: this process is replaced by Kafka, so signals reach it.

        Returns only by raising; the exit status is Kafka's (143 after SIGTERM).
        """
        runtime = kafka_runtime(self._cache)
        lock = self._lock()
        command = self._prepare(runtime)
        self._check_ports()
        self._note_owner(lock, os.getpid())
        # Kafka inherits the lock: it lasts exactly as long as the broker lives, kill -9 included.
        os.set_inheritable(lock, True)
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted

    def start(self, timeout: float = 60.0) -> BrokerStatus:
        """Start in the background and wait until it answers; does nothing when it runs already."""
        if self.status().running:
            return self.status()
        runtime = kafka_runtime(self._cache)
        lock = self._lock()
        try:
            command = self._prepare(runtime)
            self._check_ports()
            with self._console().open("ab") as output:
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
            self._note_owner(lock, self._child.pid)
        finally:
            os.close(lock)
        deadline = time.monotonic() + timeout
        while not answers(f"127.0.0.1:{self.port}"):
            if self._child.poll() is not None:
                raise BrokerError(
                    f"Kafka ended with status {self._child.returncode} while starting. "
                    f"{self._last_words()}"
                )
            if time.monotonic() > deadline:
                self.stop()
                raise BrokerError(
                    f"Kafka did not answer on port {self.port} within {timeout:.0f} s. "
                    f"{self._last_words()}"
                )
            time.sleep(0.1)
        return self.status()

    def stop(self, timeout: float = 30.0) -> None:
        """Stop the broker of this workspace, whoever started it; by force after ``timeout``."""
        for sign, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 10.0)):
            pid = self._owner()
            if pid is None:
                break
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                break
            if self._ended(patience):
                break
        else:
            raise BrokerError(f"Kafka (pid {self._owner()}) does not end: kill it by hand")
        if self._child is not None:
            self._child.wait()
            self._child = None

    def status(self) -> BrokerStatus:
        """Whether it runs, where, and on which data."""
        pid = self._owner()
        return BrokerStatus(
            running=pid is not None,
            pid=pid,
            port=self._noted().get("port", self.port) if pid else self.port,
            version=KAFKA_VERSION,
            data=self.data,
            log=self.log,
            cluster_id=self._cluster_id(),
        )

    def reset(self) -> None:
        """Delete all of the broker's data: every topic, every offset. Refused while it runs."""
        if not self.folder.exists():
            return
        lock = self._lock()
        try:
            shutil.rmtree(self.data, ignore_errors=True)
        finally:
            os.close(lock)

    def _prepare(self, runtime: Runtime) -> list[str]:
        self._check_space()
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._properties.write_text(server_properties(self.data, self.port), "utf-8")
            self._log_properties.write_text(log_properties(self.log), "utf-8")
            self._trim_console()
        except OSError as error:
            raise WorkspaceError(
                f"cannot write under {self.folder.parent} ({error.strerror}): free some space or "
                "mend its permissions, then start again"
            ) from error
        if self._cluster_id() is None:
            self._format(runtime)
        return runtime.command(self._log_properties, "kafka.Kafka", str(self._properties))

    def _format(self, runtime: Runtime) -> None:
        if self.data.exists() and any(self.data.iterdir()):
            raise WorkspaceError(
                f"{self.data} holds files but no meta.properties: it is damaged. Restore it from "
                "a copy, or start over with `flywheel kafka reset` (all events are lost)"
            )
        arguments = ("format", "-t", _new_cluster_id(), "-c", str(self._properties))
        command = runtime.command(self._log_properties, "kafka.tools.StorageTool", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise WorkspaceError(
                f"Kafka cannot format {self.data}: {(done.stderr or done.stdout).strip()[-500:]}. "
                "Check free space and permissions there, then start again"
            )

    def _lock(self) -> int:
        """An open file that marks this data folder as in use while it, or a copy of it, is open."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise WorkspaceError(
                f"cannot write under {self.folder} ({error.strerror}): free some space or mend "
                "its permissions, then start again"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            owner = self._noted().get("pid", "unknown")
            raise WorkspaceError(
                f"another Kafka (pid {owner}) uses {self.data}: only one may. Stop it with "
                "`flywheel kafka stop`, or use another workspace"
            ) from None
        return lock

    def _note_owner(self, lock: int, pid: int) -> None:
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps({"pid": pid, "port": self.port}).encode(), 0)

    def _noted(self) -> dict[str, int]:
        try:
            noted = json.loads(self._lock_file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _owner(self) -> int | None:
        """The pid of the broker that holds the lock, or None when none does."""
        if self._child is not None:
            self._child.poll()  # reaps it, if it has ended
        try:
            lock = os.open(self._lock_file, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._noted().get("pid")
        finally:
            os.close(lock)
        return None

    def _ended(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self._owner() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _check_ports(self, patience: float = 3.0) -> None:
        # A killed broker gives up its lock a moment before its ports.
        deadline = time.monotonic() + patience
        for port in (self.port, controller_port(self.port)):
            while (problem := _port_problem(port)) is not None:
                if time.monotonic() > deadline:
                    raise WorkspaceError(
                        f"port {port} of 127.0.0.1 is taken ({problem}); Kafka needs "
                        f"{self.port} and {controller_port(self.port)}: stop what holds it, or set "
                        "kafka.local_port in flywheel.toml"
                    )
                time.sleep(0.05)

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < MIN_FREE_BYTES:
            raise WorkspaceError(
                f"only {free // 2**20} MB are free where {self.folder} is, Kafka needs at least "
                f"{MIN_FREE_BYTES // 2**20} MB: free some space, or move the workspace"
            )

    def _cluster_id(self) -> str | None:
        try:
            lines = (self.data / "meta.properties").read_text("utf-8").splitlines()
        except OSError:
            return None
        return next((ln.partition("=")[2] for ln in lines if ln.startswith("cluster.id=")), None)

    def _console(self) -> Path:
        return self.log.with_name("kafka.out")

    def _trim_console(self) -> None:
        """What the JVM itself prints is rare; a start forgets it once it grew past 1 MB."""
        console = self._console()
        if console.exists() and console.stat().st_size > 2**20:
            console.unlink()

    def _last_words(self) -> str:
        said: list[str] = []
        for path in (self.log, self._console()):
            if path.exists():
                lines = path.read_text("utf-8", errors="replace").splitlines()
                said += [line for line in lines[-200:] if "ERROR" in line or "Exception" in line]
        if any("No space left" in line for line in said):
            return "The disk is full: free some space, then start again."
        tail = " | ".join(said[-3:])[-600:]
        return f"Its log, {self.log}, ends with: {tail}" if tail else f"See {self.log}."


def _port_problem(port: int) -> str | None:
    """Why a port of the loopback cannot be listened on, or None when it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _new_cluster_id() -> str:
    """16 random bytes in URL-safe base64; one with a leading dash would look like a flag."""
    while True:
        cluster_id = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        if not cluster_id.startswith("-"):
            return cluster_id
