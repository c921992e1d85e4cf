"""What vLLM is taught at its start: runs inside vLLM's own environment, in each of its processes.

vLLM finds ``register`` by the entry point group ``vllm.general_plugins``.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Let adapters go on layers whose weights a CPU kernel has repacked."""
    _allow_adapters_on_repacked_layers()


def _allow_adapters_on_repacked_layers() -> None:
    """vLLM 0.32 looks at ``layer.weight.device`` to place an adapter, but its INT8 and repacked
    kernels for CPUs leave ``weight`` None; the layer is on the CPU all the same."""
    import torch
    from vllm.lora.layers import base_linear

    original = base_linear._get_lora_device

    def device_of(layer: Any) -> Any:
        if getattr(layer, "weight", layer) is None:
            return torch.device("cpu")
        return original(layer)

    base_linear._get_lora_device = device_of
