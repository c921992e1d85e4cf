"""The feature store in a process of its own: Feast's import and writes keep no agent waiting."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Self

import msgspec
import structlog

from flywheel.errors import StorageError
from flywheel.monitoring.threads import LastingThread
from flywheel.processes.process import begin
from flywheel.settings import FlywheelSettings
from storage.features.relay import FeatureRelay
from storage.workspace import open_database

# Agents go first where cores are few.
_NICE = 5
_ANSWER_SECONDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0

_log = structlog.get_logger(__name__)

Features = Mapping[str, Mapping[str, float]]


class _Question(msgspec.Struct, frozen=True):
    number: int
    task: str
    sources: list[str]


class _Answer(msgspec.Struct, frozen=True):
    """Empty ``features`` until the store is open; ``problem`` is what keeps it from being written.
    A failure to read is ``failed``. Number 0 says that questions are heard."""

    number: int
    features: dict[str, dict[str, float]] = {}
    problem: str | None = None
    failed: str | None = None


def run_features(settings: FlywheelSettings) -> int:
    """Answer questions from standard input until it ends."""
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, signal.SIG_IGN)  # which the worker is sent as well, and ends this after
    begin("features", settings)
    os.nice(_NICE)
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is none of the answers
    decoder = msgspec.json.Decoder(_Question)
    with open_database(settings) as database, FeatureRelay(settings, database) as relay:
        _write(answers, _Answer(0))
        for line in questions:
            _write(answers, _answer(relay, decoder.decode(line)))
    return 0


def _answer(relay: FeatureRelay, asked: _Question) -> _Answer:
    try:
        found = relay.online(asked.task, asked.sources)
    except Exception as error:  # noqa: BLE001 - said to whoever asked
        return _Answer(asked.number, {}, relay.problem(), f"{type(error).__name__}: {error}")
    return _Answer(asked.number, {name: dict(of) for name, of in found.items()}, relay.problem())


def _write(answers: IO[bytes], answer: _Answer) -> None:
    answers.write(msgspec.json.encode(answer) + b"\n")
    answers.flush()


class FeatureProcess:
    """That process, started with a worker and started anew whenever it ends."""

    def __init__(self, settings: FlywheelSettings) -> None:
        self._command = [
            sys.executable,
            "-m",
            "flywheel",
            "-w",
            str(settings.workspace),
            "features",
        ]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._heard = False
        self._rest = b""
        self._problem: str | None = None
        self._stopping = threading.Event()
        self._thread = LastingThread("features", self._keep)
        self._decoder = msgspec.json.Decoder(_Answer)

    def __enter__(self) -> Self:
        self._start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(1)
        process = self._process
        if process is None:
            return
        _close(process.stdin)  # by which it knows
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process.stdout)

    def online(self, task: str, sources: Sequence[str]) -> Features:
        """Source → feature → value of a task; empty until the feature store is open.

        Raises StorageError when the process does not answer.
        """
        with self._lock:
            # Nobody waits for its start.
            self._heard = self._heard or self._read(0, 0.0) is not None
            if not self._heard:
                return {}
            self._number += 1
            self._ask(_Question(self._number, task, list(sources)))
            answer = self._read(self._number, _ANSWER_SECONDS)
        if answer is None:
            raise StorageError("the process of the feature store does not answer")
        self._problem = answer.problem
        if answer.failed is not None:
            raise StorageError(answer.failed)
        return answer.features

    def problem(self) -> str | None:
        """Why features are not being written, or None."""
        process = self._process
        if process is None or process.poll() is not None:
            return "the process of the feature store has ended and is started anew"
        return self._problem

    def _ask(self, question: _Question) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise StorageError("the process of the feature store does not run")
        try:
            process.stdin.write(msgspec.json.encode(question) + b"\n")
            process.stdin.flush()
        except (OSError, ValueError) as error:
            raise StorageError(f"the process of the feature store is gone: {error}") from error

    def _read(self, number: int, seconds: float) -> _Answer | None:
        """The answer to a question; those to earlier ones, which came too late, go."""
        process = self._process
        deadline = time.monotonic() + seconds
        while process is not None and process.stdout is not None:
            line, found, rest = self._rest.partition(b"\n")
            if found:
                self._rest = rest
                answer = self._decoder.decode(line)
                if answer.number == number:
                    return answer
                continue
            left = max(0.0, deadline - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                return None
            more = os.read(process.stdout.fileno(), 1 << 16)
            if not more:
                return None
            self._rest += more
        return None

    def _start(self) -> None:
        with self._lock:
            self._rest, self._heard = b"", False
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )

    def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.wait(_FIRST_PAUSE):
            process = self._process
            if process is not None and process.poll() is None:
                continue
            _log.warning(
                "the process of the feature store ended, starting it anew",
                status=None if process is None else process.returncode,
            )
            if self._stopping.wait(pause):
                return
            pause = min(_LONGEST_PAUSE, pause * 2)
            self._start()
            if process is not None:
                _close(process.stdin)
                _close(process.stdout)


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with suppress(OSError):  # what it held was for a process that is gone
            pipe.close()
