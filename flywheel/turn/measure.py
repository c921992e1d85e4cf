"""One model folder, served by a process of its own and asked over HTTP as its clients will ask:
what it answers, how fast, with how much memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from flywheel.compression.compare import Speed
from flywheel.errors import PipelineError
from flywheel.serving.engine import Generated
from flywheel.turn.watchdog import VARIABLE

IN_FLIGHT = 16
# Texts of one request, and requests at a time, when answers matter and not their latency.
_BATCH, _BATCHES = 32, 4
_START_SECONDS = 330.0
_STOP_SECONDS = 20.0
_ASK_SECONDS = 600.0
# However slow a model is, so many answers are timed.
_LEAST_ALONE, _LEAST_TOGETHER, _WARM = 8, 2 * IN_FLIGHT, 4
_TAIL = 600
# `flywheel serve` that ends when this process does, however that comes about.
_SERVE = (
    "from flywheel.turn.watchdog import follow_trainer; follow_trainer(); "
    "from flywheel.cli import main; main()"
)


Answer = dict[str, float] | Generated


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
        self._labels = labels
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
                told = json.loads(line)
                self.url, self.model = told["url"], told["model"]
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        code = self._process.poll()
        ended = "did not answer in time" if code is None else f"ended with exit code {code}"
        told = self._tail()
        self.stop()
        raise PipelineError(f"the model server {ended}: {told}")

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """An answer for each text, in order. Raises PipelineError when one is not answered."""
        return asyncio.run(self._answers(texts))

    def speed(self, texts: Sequence[str], seconds: float, *, accelerator: bool = False) -> Speed:
        """Ask one at a time for half of ``seconds``, then 16 at a time for the other half.

        With an ``accelerator`` an answer costs the time it keeps that busy; without, the processor
        time of the server's processes.
        """
        return asyncio.run(self._speed(texts, seconds, accelerator))

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

    async def _answers(self, texts: Sequence[str]) -> list[Answer]:
        async with self._session() as session:
            if self._labels:
                size, ask, at_once = _BATCH, self._classify, _BATCHES
            else:
                size, ask, at_once = 1, self._generate, IN_FLIGHT
            parts = [texts[start : start + size] for start in range(0, len(texts), size)]
            found: list[list[Answer]] = [[] for _ in parts]

            async def work(todo: Iterator[tuple[int, Sequence[str]]]) -> None:
                for index, part in todo:
                    found[index] = await ask(session, part)

            todo = iter(list(enumerate(parts)))
            await asyncio.gather(*(work(todo) for _ in range(at_once)))
            return [answer for part in found for answer in part]

    async def _speed(self, texts: Sequence[str], seconds: float, accelerator: bool) -> Speed:
        async with self._session() as session:
            ask = self._classify if self._labels else self._generate
            await asyncio.gather(*(ask(session, [text]) for text in texts[:_WARM]))
            alone = await _one_by_one(lambda text: ask(session, [text]), texts, seconds / 2)
            busy = self._processor_seconds()
            began = time.perf_counter()
            ends = await _together(lambda text: ask(session, [text]), texts, seconds / 2)
            spent = time.perf_counter() - began
            busy = self._processor_seconds() - busy
        return Speed(
            p50_ms=alone[len(alone) // 2],
            p95_ms=alone[min(len(alone) - 1, int(len(alone) * 0.95))],
            per_second=_rate(ends, spent),
            in_flight=IN_FLIGHT,
            cost_ms=(spent if accelerator else busy) * 1000 / len(ends),
            memory_bytes=sum(_memory(process) for process in self._tree()),
        )

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.url, timeout=aiohttp.ClientTimeout(total=_ASK_SECONDS), raise_for_status=False
        )

    async def _classify(self, session: aiohttp.ClientSession, texts: Sequence[str]) -> list[Answer]:
        body = await self._post(session, "/classify", {"input": list(texts)})
        rows = sorted(body["data"], key=lambda row: row["index"])
        return [dict(zip(row["labels"], row["probs"], strict=True)) for row in rows]

    async def _generate(self, session: aiohttp.ClientSession, texts: Sequence[str]) -> list[Answer]:
        asked = {"messages": [{"role": "user", "content": texts[0]}]}
        body = await self._post(session, "/v1/chat/completions", asked)
        choice, usage = body["choices"][0], body["usage"]
        return [
            Generated(
                text=choice["message"]["content"],
                confidence=float(choice["confidence"]),
                tokens_in=usage["prompt_tokens"],
                tokens_out=usage["completion_tokens"],
            )
        ]

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        """The answer; a server that is busy is asked again until it has time."""
        deadline = time.monotonic() + _ASK_SECONDS
        try:
            while True:
                async with session.post(path, json={"model": self.model, **body}) as answer:
                    text = await answer.text()
                    if answer.status == 200:
                        return dict(json.loads(text))
                    if answer.status != 429 or time.monotonic() > deadline:
                        raise PipelineError(
                            f"the model server answered {answer.status}: {text[:300]}"
                        )
                    pause = float(answer.headers.get("Retry-After", 1))
                await asyncio.sleep(pause)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PipelineError(
                f"the model server is gone ({type(error).__name__}): {self._tail()}"
            ) from error

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


async def _one_by_one(ask: Any, texts: Sequence[str], seconds: float) -> list[float]:
    """Milliseconds of each request, sorted."""
    deadline, taken = time.perf_counter() + seconds, list[float]()
    for text in _round(texts):
        started = time.perf_counter()
        await ask(text)
        ended = time.perf_counter()
        taken.append((ended - started) * 1000)
        if ended > deadline and len(taken) >= _LEAST_ALONE:
            break
    return sorted(taken)


async def _together(ask: Any, texts: Sequence[str], seconds: float) -> list[float]:
    """When each answer came, with so many in flight all the time."""
    deadline, ends, todo = time.perf_counter() + seconds, list[float](), _round(texts)

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


def _round(texts: Sequence[str]) -> Iterator[str]:
    while True:
        yield from texts


def _lines(path: Path) -> Iterable[str]:
    """The whole lines of JSON objects that a process has written so far."""
    written, _, _ = path.read_text("utf-8").rpartition("\n")
    return [line for line in written.splitlines() if line.startswith("{")]
