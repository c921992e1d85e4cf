"""Tries vLLM's settings on this machine: each starts a model server and is asked for real."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flywheel.compression.compare import Speed
from flywheel.contracts.model_folder import ModelDescription, read_description
from flywheel.errors import FlywheelError
from flywheel.kinds import answers_of
from flywheel.serving.config import VllmSettings
from flywheel.serving.vllm.machine import find_installation
from flywheel.turn.measure import ServedFolder

DTYPE_VARIABLE = "FLYWHEEL_VLLM_DTYPE"
TEXTS = tuple(
    f"{question} {number}?"
    for number in range(16)
    for question in ("Who wrote book", "How far is it from here to planet", "Where is road number")
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting and what was measured; ``problem`` says why nothing was."""

    dtype: str
    threads: int
    ready_seconds: float = 0.0
    speed: Speed | None = None
    problem: str = ""


def candidates(cores: int, *, gpu: bool) -> list[tuple[str, int]]:
    """Types and thread counts worth a trial; on a GPU threads make no difference."""
    if gpu:
        return [("bfloat16", 0), ("float16", 0), ("float32", 0)]
    counts = sorted({1, max(1, cores // 2), cores})
    return [(dtype, threads) for dtype in ("float32", "bfloat16") for threads in counts]


def best(trials: Sequence[Trial]) -> Trial | None:
    """The fastest under load; of those within 3 %, the one that answers soonest when alone."""
    measured = [trial for trial in trials if trial.speed is not None]
    fastest = max((t.speed.per_second for t in measured if t.speed), default=0.0)
    near = [t for t in measured if t.speed and t.speed.per_second >= 0.97 * fastest]
    return min(near, key=lambda t: t.speed.p50_ms if t.speed else 0.0, default=None)


def tune(folder: Path, bases: Path, seconds: float) -> Iterator[Trial]:
    """Measure each candidate in turn. Raises ArtefactError or ConfigurationError at once where
    the folder or vLLM itself is not usable."""
    about = read_description(folder)
    installation = find_installation(VllmSettings(), os.environ)
    for dtype, threads in candidates(len(os.sched_getaffinity(0)), gpu=installation.gpu):
        yield _try(folder, about, bases, dtype, threads, seconds)


def _try(
    folder: Path, about: ModelDescription, bases: Path, dtype: str, threads: int, seconds: float
) -> Trial:
    with _dtype(dtype):
        began = time.monotonic()
        server = ServedFolder(
            folder,
            engine="vllm",
            labels=answers_of(about.output).scored,
            bases=bases,
            threads=threads,
        )
    try:
        server.ready()
        ready = time.monotonic() - began
        return Trial(dtype, threads, ready, server.speed(TEXTS, seconds))
    except FlywheelError as error:
        return Trial(dtype, threads, problem=str(error))
    finally:
        server.stop()


@contextmanager
def _dtype(dtype: str) -> Iterator[None]:
    """`flywheel serve` reads it from its environment, which it has from us."""
    before = os.environ.get(DTYPE_VARIABLE)
    os.environ[DTYPE_VARIABLE] = dtype
    try:
        yield
    finally:
        if before is None:
            del os.environ[DTYPE_VARIABLE]
        else:
            os.environ[DTYPE_VARIABLE] = before
