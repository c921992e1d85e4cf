"""Processes of one role on one database, each of which can be killed, hung and started anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from new_database import new_database
from postgres_server import empty

from storage.database import Database

PROGRAMS = Path(__file__).parent
CONFIG = """
[tasks.{name}]
labels = ["a", "b"]
training.base_model = "/none"
rollout.warm_seconds = 600.0
rollout.max_minutes = 600.0
"""


def eventually(what: str, condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Waits for something."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def fleet(
    program: str, request: pytest.FixtureRequest, tasks: Sequence[str], *, shared: bool
) -> Iterator[Fleet]:
    """Processes on the kind of database that the parameter of a fixture names."""
    folder: Path = request.getfixturevalue("tmp_path")
    url = f"sqlite:///{folder / 'flywheel.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").url
    made = Fleet(program, folder, url, tasks, shared=shared)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def database_of(fleet: Fleet) -> Iterator[Database]:
    """Their database, empty."""
    made = new_database(fleet.url)
    if not fleet.url.startswith("sqlite"):
        empty(made)
    try:
        yield made
    finally:
        made.dispose()


class Fleet:
    """``program`` is asked with (workspace, database, log) and says who it is. ``shared``: all in
    one workspace; else each has one of its own."""

    def __init__(
        self, program: str, folder: Path, url: str, tasks: Sequence[str], *, shared: bool
    ) -> None:
        self.url, self.log = url, folder / "log"
        self.log.touch()
        self._program, self._folder, self._tasks = PROGRAMS / program, folder, tasks
        self._shared, self._started = shared, 0
        self._output = (folder / "output").open("a")
        self.alive: dict[str, subprocess.Popen[str]] = {}

    def start(self) -> str:
        """One more; its name."""
        self._started += 1
        workspace = self._folder / ("all" if self._shared else f"own-{self._started}")
        workspace.mkdir(exist_ok=True)
        text = "".join(CONFIG.format(name=name) for name in self._tasks)
        (workspace / "flywheel.toml").write_text(text, "utf-8")
        process = subprocess.Popen(
            [sys.executable, str(self._program), str(workspace), self.url, str(self.log)],
            env={**os.environ, "PYTHONPATH": f"{PROGRAMS.parent}:{PROGRAMS.parents[1]}"},
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
        )
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert name, (self._folder / "output").read_text()
        self.alive[name] = process
        return name

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.alive.pop(name)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def hang(self, name: str) -> None:
        """Until ``wake``."""
        os.kill(self.alive[name].pid, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """It goes on where it was."""
        os.kill(self.alive[name].pid, signal.SIGCONT)

    def close(self) -> None:
        """kill -9 of all."""
        for name in list(self.alive):
            self.kill(name)
        self._output.close()
