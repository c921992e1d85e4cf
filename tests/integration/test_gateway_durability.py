"""When an answer leaves: after the operating system has its record, or after the disk has it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from gateway_harness import (
    LABELS,
    TASK,
    FilePublisher,
    client,
    eventually,
    model_server,
    running,
    split_event,
)

from flywheel import kinds
from flywheel.gateway.app import create_app
from flywheel.gateway.capture import Capture
from flywheel.gateway.config import Fsync
from flywheel.gateway.forward import ModelServers
from flywheel.gateway.spill import SpillLog
from flywheel.gateway.splits import Splits
from flywheel.monitoring.http_server import HttpServer


class Disk:
    """The real fdatasync, which can be held up, can fail, and notes what the spill log held."""

    def __init__(self, spill: Path) -> None:
        self._spill = spill
        self._real = os.fdatasync
        self.let = threading.Event()
        self.let.set()
        self.error: OSError | None = None
        self.held: list[bytes] = []

    def __call__(self, fd: int) -> None:
        self.held.append(b"".join(path.read_bytes() for path in self._spill.glob("*.log")))
        self.let.wait(30)
        if self.error is not None:
            raise self.error
        self._real(fd)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(tmp_path / "spill")
    monkeypatch.setattr(os, "fdatasync", made)
    return made


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[[Fsync], httpx.Client]]:
    with ExitStack() as stack:

        def start(fsync: Fsync) -> httpx.Client:
            url, _ = stack.enter_context(model_server(split_event("r1")))
            splits = Splits()
            splits.update(split_event("r1"))
            splits.mark_caught_up()
            publisher = FilePublisher(tmp_path / "published")
            publisher.down = True
            spill = SpillLog(tmp_path / "spill", fsync=fsync != "never")
            app = create_app(
                tasks={TASK: kinds.TaskKind.of(kinds.of("classification"), LABELS)},
                splits=splits,
                servers=ModelServers([url], 10.0),
                capture=Capture(spill, publisher, fsync=fsync),
            )
            served = stack.enter_context(running(HttpServer(app, "127.0.0.1", 0)))
            # At its end a gateway waits for the broker.
            stack.callback(setattr, publisher, "down", False)
            return stack.enter_context(client(served))

        yield start


REQUESTS = {
    "classify": {"task": TASK, "text": "Who?"},
    "chat/completions": {"model": TASK, "messages": [{"role": "user", "content": "Who?"}]},
    "feedback": {"task": TASK, "sample_id": "s", "label": "HUM"},
}


@pytest.mark.parametrize("path", REQUESTS)
def test_always_answers_after_the_disk_has_the_record(
    gateway: Callable[[Fsync], httpx.Client], disk: Disk, path: str
) -> None:
    http = gateway("always")
    disk.let.clear()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(http.post, f"/v1/{path}", json=REQUESTS[path])
        eventually(lambda: disk.held)
        assert not answer.done()
        assert b"Recorded" in disk.held[0]
        disk.let.set()
        assert answer.result(30).status_code in (200, 202)


def test_a_disk_that_fails_to_hold_the_record_is_no_answer(
    gateway: Callable[[Fsync], httpx.Client], disk: Disk
) -> None:
    http = gateway("always")
    disk.error = OSError(errno.EIO, "Input/output error")
    refused = http.post("/v1/classify", json=REQUESTS["classify"])
    assert refused.status_code == 503
    assert "could not be recorded" in refused.json()["detail"]
    disk.error = None
    assert http.post("/v1/classify", json=REQUESTS["classify"]).status_code == 200


@pytest.mark.parametrize("fsync", ["never", "interval"])
def test_without_it_no_answer_waits_for_the_disk(
    gateway: Callable[[Fsync], httpx.Client], disk: Disk, fsync: Fsync
) -> None:
    http = gateway(fsync)
    disk.let.clear()
    assert http.post("/v1/classify", json=REQUESTS["classify"]).status_code == 200
    if fsync == "interval":
        eventually(lambda: any(b"Recorded" in held for held in disk.held))
    else:
        assert disk.held == []
    disk.let.set()
