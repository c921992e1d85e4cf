"""kill -9 of vLLM, and of the model server that started it, under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from vllm_models import bert_release, living_group, require_vllm

# Minutes together: .ci/run runs them after `make test`.
pytestmark = pytest.mark.slow


@dataclass
class ModelServer:
    process: subprocess.Popen[str]
    url: str
    model: str

    def engines(self) -> list[psutil.Process]:
        """Its vLLM API servers; each leads a group of processes."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            try:
                if "flywheel.serving.vllm.launch" in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ModelServer]:
    require_vllm()
    folder = bert_release(tmp_path / "release")
    command = [sys.executable, "-m", "flywheel", "serve", "--folder", str(folder)]
    process = subprocess.Popen(
        [*command, "--engine", "vllm", "--name", "r1"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    yield ModelServer(process, ready["url"], ready["model"])
    process.kill()
    process.wait()
    process.stdout.close()


def eventually(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_kill_9_under_load(server: ModelServer) -> None:
    answers: list[httpx.Response] = []
    stopping = threading.Event()

    def ask(http: httpx.Client) -> None:
        while not stopping.is_set():
            body = {"model": server.model, "input": ["How far is planet 7?"]}
            answers.append(http.post("/classify", json=body))
            if answers[-1].status_code != 200:
                stopping.wait(0.05)

    # A request that hangs raises ReadTimeout here, and fails the test.
    http = httpx.Client(base_url=server.url, timeout=20, trust_env=False)
    with http, ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, http) for _ in range(4)]
        try:
            eventually(lambda: len(answers) > 20)
            [engine] = server.engines()
            engine.kill()
            eventually(lambda: any(a.status_code == 503 for a in answers))
            eventually(lambda: http.get("/healthz").status_code == 503)
            assert http.get("/v1/models").json()["data"] == []
            eventually(lambda: not living_group(engine.pid))
            # It comes back by itself.
            eventually(lambda: http.get("/healthz").status_code == 200)
            seen = len(answers)
            eventually(lambda: len(answers) > seen + 20)
        finally:
            stopping.set()
        for one in asking:
            one.result()
    assert {answer.status_code for answer in answers} == {200, 503}
    assert answers[-1].status_code == 200
    refused = [answer for answer in answers if answer.status_code == 503]
    assert all("retry-after" in answer.headers for answer in refused)
    # What computes dies alone (as when memory runs out): noticed all the same.
    [engine] = server.engines()
    [core] = [child for child in engine.children() if "EngineCore" in " ".join(child.cmdline())]
    core.kill()
    eventually(lambda: not living_group(engine.pid))
    # Nothing outlives the model server, though it dies while vLLM is starting again.
    eventually(lambda: [new for new in server.engines() if new.pid != engine.pid])
    [engine] = server.engines()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    eventually(lambda: not living_group(engine.pid))
