"""How vLLM is started: settings → its arguments and environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from flywheel.contracts.model_folder import ModelKind
from flywheel.serving.config import VllmSettings

# More labels than a prompt can tell apart.
_MOST_LOGPROBS = 64


def server_arguments(
    settings: VllmSettings,
    *,
    model: Path,
    name: str,
    kind: ModelKind,
    adapters: bool,
    dtype: str,
    max_tokens: int,
    gpu: bool,
) -> list[str]:
    """The command line of a server that serves ``model`` under ``name``."""
    arguments = ["--model", str(model), "--served-model-name", name, "--dtype", dtype]
    # What a model folder says of sampling is not part of our releases.
    arguments += ["--max-model-len", str(max_tokens), "--generation-config", "vllm"]
    if kind == "encoder":
        # We send token ids, made exactly as for the embedded engine.
        arguments += ["--runner", "pooling", "--skip-tokenizer-init"]
    else:
        arguments += [
            "--logprobs-mode",
            "processed_logprobs",
            "--max-logprobs",
            str(_MOST_LOGPROBS),
        ]
    if adapters:
        arguments += ["--enable-lora", "--max-loras", str(settings.max_adapters)]
        arguments += ["--max-lora-rank", str(lora_rank(settings.max_rank))]
    if gpu:
        arguments += ["--gpu-memory-utilization", str(settings.gpu_memory_share)]
        arguments += ["--tensor-parallel-size", str(settings.tensor_parallel)]
    else:
        # One process less than vLLM's default: the engine computes itself (see the environment).
        arguments += ["--enforce-eager", "--distributed-executor-backend", "uni"]
        if kind == "llm":
            # Only whole blocks of a prompt are cached: vLLM's default of 128 tokens is longer than
            # most system messages, which are the same for every request. It takes multiples of 32.
            arguments += ["--block-size", "32"]
    return [*arguments, *settings.arguments]


def lora_rank(rank: int) -> int:
    """The smallest rank that vLLM knows and that is not below ``rank``."""
    known = (1, 8, 16, 32, 64, 128, 256, 320, 512)
    return next((size for size in known if size >= rank), known[-1])


def server_environment(
    settings: VllmSettings, environment: Mapping[str, str], *, gpu: bool
) -> dict[str, str]:
    """The environment of a server."""
    variables = dict(environment)
    variables |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not gpu:
        threads = settings.threads or len(os.sched_getaffinity(0))
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gb),
            # The engine computes in its own process, on threads that we set: no worker processes.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(threads),
        }
        # Threads that spin while they wait starve vLLM's own other process on a small machine.
        variables.setdefault("OMP_WAIT_POLICY", "passive")
    return variables
