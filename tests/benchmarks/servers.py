"""Servers as processes of their own, paused while another one is measured, and load on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import psutil  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[1]))
from kafka_fixture import free_port

LOGS = Path("build/bench/logs")
WARM_UP_SECONDS = 0.3
# Of vLLM. Clients, gateway and model server need the other half of the machine.
VLLM_THREADS = max(1, (os.cpu_count() or 2) // 2)


def classify_body(text: str) -> bytes:
    """A request for /classify; ``MODEL`` is the name that every benchmark serves under."""
    return msgspec.json.encode({"model": MODEL, "input": text})


MODEL = "bench"
# Of the gateway; model servers ask for none.
KEY = "a-key-of-the-benchmarks-alone"


@dataclass
class Server:
    """One started server: where it answers, and how it is asked."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    body: Callable[[str], bytes] = classify_body

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def vllm_url(self) -> str:
        """Where the vLLM process answers that this model server has started."""
        for process in psutil.Process(self.process.pid).children():
            command = process.cmdline()
            if "flywheel.serving.vllm.launch" in command:
                return f"http://127.0.0.1:{command[command.index('--port') + 1]}"
        raise RuntimeError(f"{self.name} has started no vLLM")

    def pause(self) -> None:
        """Let it use no processor: some servers poll while they are idle."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Processor time that its living processes have used so far."""
        found = 0.0
        parent = psutil.Process(self.process.pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                found += times.user + times.system
        return found

    def stop(self) -> None:
        """End it and whatever it started."""
        self.resume()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(
    name: str,
    command: Sequence[str],
    path: str,
    *,
    port: int | None = None,
    body: Callable[[str], bytes] = classify_body,
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Start a server in a session of its own; ``{port}`` in its command is a free one.

    What it writes is under build/bench/logs.
    """
    # By an exception, so that whoever started servers ends them when asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    port = port or free_port()
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name.replace(' ', '-')}.log").open("wb") as log:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            stdout=log,
            stderr=log,
            stdin=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    return Server(name, f"http://127.0.0.1:{port}{path}", process, body)


def serve(name: str, folder: Path, engine: str) -> Server:
    """`flywheel serve --folder`, with one inference thread or, of vLLM, with half of the cores."""
    command = [sys.executable, "-m", "flywheel", "serve", "--folder", str(folder)]
    command += ["--name", MODEL, "--engine", engine, "--port", "{port}"]
    command += ["--threads", str(VLLM_THREADS) if engine == "vllm" else "1"]
    return start(name, command, "/classify")


class Measured(msgspec.Struct):
    """One measurement. ``cpu_ms``: processor time of the server for one request, which a busy
    machine changes less than it changes the rest."""

    requests_per_second: float
    p50_ms: float
    p95_ms: float
    requests: int
    cpu_ms: float


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that holds as many connections as are asked for."""
    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(
        headers=headers, connector=connector, timeout=timeout
    ) as session:
        yield session


async def ready(server: Server, seconds: float = 180.0, *, every: float = 0.1) -> None:
    """Wait for the first answer. Raises RuntimeError when none comes."""
    async with client() as session:
        await _answers(session, server, seconds, every)


async def _answers(
    session: aiohttp.ClientSession, server: Server, seconds: float, every: float
) -> None:
    deadline = time.monotonic() + seconds
    said = "nothing"
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.name} ended with {server.process.returncode}: see {LOGS}")
        try:
            async with session.post(server.url, data=server.body("What is it?")) as response:
                said = (await response.text())[:300]
                if response.status == 200:
                    return
        except (aiohttp.ClientError, TimeoutError) as error:
            said = repr(error)
        await asyncio.sleep(every)
    raise RuntimeError(f"{server.name} did not answer within {seconds:.0f} s: {said}")


async def load(
    server: Server,
    texts: Sequence[str],
    *,
    in_flight: int,
    seconds: float,
) -> Measured:
    """``in_flight`` requests of one text at a time, each sent when the one before was answered.

    Counts what is answered after the warm-up. Its connections are its own: a server that was
    paused may close those that it finds idle. Raises RuntimeError for an answer but 200.
    """
    bodies = [server.body(text) for text in texts]
    begin = time.perf_counter() + WARM_UP_SECONDS
    end = begin + seconds
    latencies: list[float] = []
    answered_in_all = 0

    async def ask(session: aiohttp.ClientSession, first: int) -> None:
        nonlocal answered_in_all
        index = first
        while (sent := time.perf_counter()) < end:
            async with session.post(server.url, data=bodies[index % len(bodies)]) as response:
                await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{server.name} answered {response.status}")
            answered = time.perf_counter()
            answered_in_all += 1
            if begin <= answered <= end:
                latencies.append((answered - sent) * 1000)
            index += in_flight

    before = server.cpu_seconds()
    async with client() as session:
        await asyncio.gather(*(ask(session, first) for first in range(in_flight)))
    cpu = (server.cpu_seconds() - before) / max(1, answered_in_all)
    return summary(latencies, seconds, cpu * 1000)


def summary(latencies: list[float], seconds: float, cpu_ms: float) -> Measured:
    """Percentiles and rate of what was answered in ``seconds``."""
    ordered = sorted(latencies) or [float("nan")]
    return Measured(
        requests_per_second=len(latencies) / seconds,
        p50_ms=ordered[len(ordered) // 2],
        p95_ms=ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
        requests=len(latencies),
        cpu_ms=cpu_ms,
    )
