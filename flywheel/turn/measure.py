"""One model folder, served by a process of its own and asked over HTTP as its clients will ask:
what it answers, how fast, with how much memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flywheel.compression.compare import Speed
from flywheel.contracts.model_server import CLASSIFY, GENERATE
from flywheel.errors import FlywheelError, PipelineError
from flywheel.gateway.forward import ModelServers
from flywheel.serving.client import ModelServerClient
from flywheel.serving.engine import Generated
from flywheel.turn.watchdog import VARIABLE

IN_FLIGHT = 16
# Texts of one request, and requests at a time, when answers matter and not their latency.
_BATCH, _BATCHES = 32, 4
_START_SECONDS = 330.0
_STOP_SECONDS = 20.0
_ASK_SECONDS = 600.0
_LOOK_SECONDS = 0.2
# However slow a model is, so many answers are timed.
_LEAST_ALONE, _LEAST_TOGETHER, _WARM = 8, 2 * IN_FLIGHT, 4
_TAIL = 600
# `flywheel serve` that ends when this process does, however that comes about.
_SERVE = (
    "from flywheel.turn.watchdog import follow_trainer; follow_trainer(); "
    "from flywheel.cli import main; main()"
)


Answer = dict[str, float] | Generated
Ask = Callable[[str], Awaitable[None]]


class ServedFolder:
    """`flywheel serve --folder` as a child process. ``labels`` says whether it classifies.

    Starting does not wait, so that several can start at the same time; ``ready`` does.
    """

    def __init__(
        self,
        folder: Path,
        *,
        engine: str,
        labels: bool,
        bases: Path | None = None,
        workspace: Path | None = None,
        threads: int = 1,
    ) -> None:
        self.url = self.model = ""
        self._scored = labels
        self._log = tempfile.NamedTemporaryFile(prefix="flywheel-serve-", suffix=".log")  # noqa: SIM115
        self._out = tempfile.NamedTemporaryFile(prefix="flywheel-serve-", suffix=".json")  # noqa: SIM115
        command = [sys.executable, "-c", _SERVE]
        command += ["--workspace", str(workspace)] if workspace else []
        command += ["serve", "--folder", str(folder), "--engine", engine, "--port", "0"]
        # vLLM's are a setting of its own.
        command += ["--threads", str(threads)] if engine == "embedded" else []
        command += ["--bases", str(bases)] if bases else []
        self._process = subprocess.Popen(
            command,
            stdout=self._out,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, VARIABLE: str(os.getpid())},
        )

    def ready(self, seconds: float = _START_SECONDS) -> None:
        """Wait until it answers. Raises PipelineError, with the end of its log, otherwise."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in _lines(Path(self._out.name)):
                ready = json.loads(line)
                self.url, self.model = ready["url"], ready["model"]
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        code = self._process.poll()
        ended = "did not answer in time" if code is None else f"ended with exit code {code}"
        log = self._tail()
        self.stop()
        raise PipelineError(f"the model server {ended}: {log}")

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """An answer for each text, in order. Raises PipelineError when one is not answered."""
        size, at_once = (_BATCH, _BATCHES) if self._scored else (1, IN_FLIGHT)
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        with contextlib.closing(self._client()) as client, ThreadPoolExecutor(at_once) as pool:
            answers = pool.map(lambda part: self._ask(client, part), parts)
            return [answer for part in answers for answer in part]

    def speed(self, texts: Sequence[str], seconds: float, *, accelerator: bool = False) -> Speed:
        """Ask as the gateway does, one at a time for half of ``seconds``, then 16 at a time.

        With an ``accelerator`` an answer costs the time it keeps that busy; without, the processor
        time of the server's processes.
        """
        return asyncio.run(self._while_it_lives(self._speed(texts, seconds, accelerator)))

    async def _while_it_lives(self, measuring: Coroutine[Any, Any, Speed]) -> Speed:
        """The outcome; PipelineError at once where the server ends instead, for the gateway's way
        waits for one that comes back."""
        task = asyncio.create_task(measuring)
        while not task.done():
            if self._process.poll() is not None:
                raise PipelineError(f"the model server is gone: {self._tail()}")
            await asyncio.wait([task], timeout=_LOOK_SECONDS)
        return task.result()

    async def _speed(self, texts: Sequence[str], seconds: float, accelerator: bool) -> Speed:
        servers = ModelServers([self.url], _ASK_SECONDS, IN_FLIGHT)
        call = CLASSIFY if self._scored else GENERATE
        await servers.open()
        try:

            async def ask(text: str) -> None:
                await servers.ask(call, self.model, text)

            await asyncio.gather(*map(ask, texts[:_WARM]))
            alone = await _one_by_one(ask, texts, seconds / 2)
            busy = self._processor_seconds()
            began = time.perf_counter()
            ends = await _together(ask, texts, seconds / 2)
            spent = time.perf_counter() - began
            busy = self._processor_seconds() - busy
        except FlywheelError as error:
            raise self._failed(error) from error
        finally:
            await servers.close()
        return Speed(
            p50_ms=alone[len(alone) // 2],
            p95_ms=alone[min(len(alone) - 1, int(len(alone) * 0.95))],
            per_second=_rate(ends, spent),
            in_flight=IN_FLIGHT,
            cost_ms=(spent if accelerator else busy) * 1000 / len(ends),
            memory_bytes=sum(_memory(process) for process in self._tree()),
        )

    @property
    def pid(self) -> int:
        """The server process."""
        return self._process.pid

    def stop(self) -> None:
        """End it and every process that it started; once is enough."""
        if self._out.closed:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self._out.close()

    def _tail(self) -> str:
        text = Path(self._log.name).read_text("utf-8", errors="replace").strip()
        return text[-_TAIL:] or "it wrote no log"

    def _client(self) -> ModelServerClient:
        """One that stays with a server which is busy until it has time."""
        return ModelServerClient(
            self.url, seconds=_ASK_SECONDS, patience=_ASK_SECONDS, keep=IN_FLIGHT
        )

    def _ask(self, client: ModelServerClient, texts: Sequence[str]) -> list[Answer]:
        """Labels of all texts in one request, or one text's answer."""
        try:
            if self._scored:
                return list(client.classify(self.model, texts))
            generated = client.ask(GENERATE, self.model, texts[0])
        except FlywheelError as error:
            raise self._failed(error) from error
        return [
            Generated(
                text=generated.output,
                confidence=generated.confidence,
                tokens_in=generated.tokens_in,
                tokens_out=generated.tokens_out,
            )
        ]

    def _failed(self, error: FlywheelError) -> PipelineError:
        return PipelineError(
            f"the model server failed: {error}; the end of its log: {self._tail()}"
        )

    def _tree(self) -> list[Any]:
        import psutil

        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _processor_seconds(self) -> float:
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(Exception):
                times = process.cpu_times()
                total += float(times.user + times.system)
        return total


def _memory(process: Any) -> int:
    """Resident bytes; pages that several processes share count once where the system tells."""
    import psutil

    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    except psutil.Error:
        return 0


async def _one_by_one(ask: Ask, texts: Sequence[str], seconds: float) -> list[float]:
    """Milliseconds of each request, sorted."""
    deadline, taken = time.perf_counter() + seconds, list[float]()
    for text in itertools.cycle(texts):
        started = time.perf_counter()
        await ask(text)
        ended = time.perf_counter()
        taken.append((ended - started) * 1000)
        if ended > deadline and len(taken) >= _LEAST_ALONE:
            break
    return sorted(taken)


async def _together(ask: Ask, texts: Sequence[str], seconds: float) -> list[float]:
    """When each answer came, with so many in flight all the time."""
    deadline, ends, todo = time.perf_counter() + seconds, list[float](), itertools.cycle(texts)

    async def work() -> None:
        for text in todo:
            await ask(text)
            ends.append(time.perf_counter())
            if ends[-1] > deadline and len(ends) > _LEAST_TOGETHER - IN_FLIGHT:
                return

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return sorted(ends)


def _rate(ends: Sequence[float], seconds: float) -> float:
    """Answers a second. The first of each in flight found an idle server and the last an emptying
    one: they are left out where enough others are there."""
    if len(ends) < 4 * IN_FLIGHT:
        return len(ends) / seconds
    steady = ends[IN_FLIGHT - 1 : -IN_FLIGHT + 1]
    return (len(steady) - 1) / (steady[-1] - steady[0])


def _lines(path: Path) -> Iterable[str]:
    """The whole lines of JSON objects that a process has written so far."""
    written, _, _ = path.read_text("utf-8").rpartition("\n")
    return [line for line in written.splitlines() if line.startswith("{")]
