"""What a workspace may say about vLLM."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flywheel.contracts.configuration import Settings


class VllmSettings(Settings):
    """[serving.vllm]: processes that this machine runs, or servers elsewhere by URL."""

    python: str = Field(
        "",
        description="Interpreter of vLLM's own environment; empty: the one `make vllm` made.",
    )
    urls: tuple[str, ...] = Field(
        (), description="vLLM servers run elsewhere, one per release or base; none is started."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: what this kind of processor was measured to like."
    )
    threads: int = Field(0, ge=0, description="CPU threads of each vLLM process; 0: all cores.")
    kv_cache_gb: int = Field(1, ge=1, description="Of each process, on a CPU.")
    max_tokens: int = Field(1024, ge=64, description="Longest prompt and answer together.")
    max_adapters: int = Field(4, ge=1, description="LoRA adapters served at the same time.")
    max_rank: int = Field(
        8, ge=1, description="Largest LoRA rank that is served; every adapter costs as much."
    )
    parallel: int = Field(16, ge=1, description="Texts that one process is asked at a time.")
    gpu_memory_share: float = Field(
        0.9, gt=0, le=1, description="Of a GPU's memory, that each process takes."
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share one model.")
    start_seconds: float = Field(300.0, gt=0, description="Longest wait for a process to start.")
    arguments: tuple[str, ...] = Field((), description="More arguments for vLLM itself.")
