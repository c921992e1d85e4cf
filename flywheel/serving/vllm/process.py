"""One vLLM process: started, awaited, watched and ended with all that it started itself."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from flywheel.errors import ArtefactError, ConfigurationError, FlywheelError, Unavailable
from flywheel.serving.vllm.client import VllmClient

_log = structlog.get_logger(__name__)

STOP_SECONDS = 15.0
_TAIL_BYTES = 64_000
_MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryError|Cannot allocate memory|DefaultCPUAllocator"
    r"|not enough memory|less than desired|No available memory|larger than the available KV cache",
    re.IGNORECASE,
)
_PORT = re.compile(r"address already in use|Errno 98", re.IGNORECASE)
_ARGUMENTS = re.compile(r"error: (unrecognized arguments|argument|ambiguous option).*")
_MODEL = re.compile(
    r"validation errors? for \w*Config|not supported|is not a valid|Unknown quantization"
    r"|SafetensorError|KeyError|size mismatch|AssertionError|does not recognize this architecture"
    r"|There is no module or parameter|not initialized from checkpoint|JSONDecodeError"
)
# An error's line, and the next where that goes on (pydantic's first says only how many there are).
_SAID = re.compile(r"(?:[\w.]*(?:Error|Exception|Interrupt)): .+(?:\n {2}\S.+)?")
# What vLLM logs below an error speaks of errors as well: what may happen, and what to do then.
_REMARK = re.compile(r"^(?:\([^)]*\) )?(?:DEBUG|INFO|WARNING) .*$", re.MULTILINE)


class VllmProcess:
    """Started by the constructor's caller with ``start``; its log is a file."""

    def __init__(
        self,
        python: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self._command = [str(python), "-m", "flywheel.serving.vllm.launch"]
        self._arguments, self._environment, self._log = tuple(arguments), dict(environment), log
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = -1
        self.client: VllmClient

    @property
    def pid(self) -> int | None:
        """The API server, which leads the group of all its processes."""
        return None if self._child is None else self._child.pid

    def start(self, stopping: threading.Event, seconds: float) -> None:
        """Return once it answers.

        Raises ArtefactError for a model that vLLM cannot run, ConfigurationError for settings that
        it does not take, and Unavailable for what may go well another time.
        """
        port = _free_port()
        self.client = VllmClient(f"http://127.0.0.1:{port}")
        self._spawn(port)
        began = time.monotonic()
        try:
            while not self.client.healthy():
                if self.problem() is not None:
                    raise self._why_not()
                if stopping.wait(0.1):
                    raise Unavailable("this model server is stopping")
                if time.monotonic() - began > seconds:
                    raise Unavailable(
                        f"vLLM was not ready after {seconds:.0f} s "
                        f"(serving.vllm.start_seconds); its log is {self._log}"
                    )
        except BaseException:
            self.stop()
            raise
        _log.info("vLLM ready", pid=self.pid, seconds=round(time.monotonic() - began, 1))

    def _spawn(self, port: int) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        reading, self._owner = os.pipe()
        address = ["--host", "127.0.0.1", "--port", str(port)]
        try:
            with self._log.open("wb") as log:
                self._child = subprocess.Popen(
                    [*self._command, str(reading), *address, *self._arguments],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[reading],
                    start_new_session=True,
                )
        except OSError as error:
            self.stop()
            raise ConfigurationError(
                "serving.vllm.python", f"{self._command[0]} cannot be run: {error}"
            ) from error
        finally:
            os.close(reading)

    def problem(self) -> str | None:
        """Why it answers no more, or None while it runs."""
        if self._child is None or (status := self._child.poll()) is None:
            return None
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        return f"vLLM (pid {self._child.pid}) ended with {how}"

    def stop(self) -> None:
        """End it and all that it started: asked first, then killed. May be called again."""
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                _log.warning("vLLM did not end when asked", pid=self._child.pid)
            _kill_group(self._child.pid)
            self._child.wait()
            _await_group(self._child.pid)
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
        self.client.close()

    def _why_not(self) -> FlywheelError:
        return why_ended(self.problem() or "vLLM ended", _tail(self._log), self._log)


def why_ended(problem: str, tail: str, log: Path) -> FlywheelError:
    """What the end of its log says of a process that ended before it answered."""
    said = _SAID.findall(_REMARK.sub("", tail))
    # The first error is the cause; what follows says that the engine is gone.
    causes = [line for line in said if "Engine core initialization failed" not in line]
    cause = (causes or said or [tail])[-1 if not causes else 0]
    cause = " ".join(cause.split()) if said else " ".join(tail.split()[-40:])
    message = f"{problem}: {cause[:500]} (its log is {log})"
    if _MEMORY.search(tail) or "SIGKILL" in problem:
        return Unavailable(
            f"not enough memory for this model. {message}; make room, lower "
            "serving.vllm.kv_cache_gb or max_tokens, or serve a smaller variant",
            retry_after=10.0,
        )
    if _PORT.search(tail):
        return Unavailable(f"another process took its port. {message}")
    if refused := _ARGUMENTS.search(tail):
        return ConfigurationError("serving.vllm.arguments", refused.group(0), f"see {log}")
    if _MODEL.search(cause):
        return ArtefactError(f"vLLM cannot run this model. {message}")
    return Unavailable(message, retry_after=5.0)


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return stream.read().decode("utf-8", "replace")


def _await_group(leader: int) -> None:
    """Return when none of the killed processes runs: what they held is free for the next."""
    deadline = time.monotonic() + STOP_SECONDS
    while _runs(leader):
        if time.monotonic() > deadline:
            _log.warning("vLLM's processes do not end", group=leader)
            return
        time.sleep(0.02)


def _runs(leader: int) -> bool:
    """Whether the group has a process that is more than an entry which nobody has read yet."""
    try:
        os.killpg(leader, 0)
    except (ProcessLookupError, PermissionError):
        return False
    entries = Path("/proc")
    if not entries.is_dir():
        return True
    for entry in entries.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: state, parent, group.
            state, _, group = entry.read_bytes().rpartition(b")")[2].split()[:3]
            if int(group) == leader and state not in (b"Z", b"X"):
                return True
    return False


def _kill_group(leader: int) -> None:
    """Also when the leader is gone: what it started may be left."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
