"""What vLLM is taught at its start: runs inside vLLM's own environment, in each of its processes.

vLLM finds ``register`` by the entry point group ``vllm.general_plugins``.
"""

from __future__ import annotations

import os
from typing import Any

# The architecture of config.json that names our class; the suffix tells vLLM that it classifies.
MEAN_BERT = "FlywheelMeanBertForSequenceClassification"


def register() -> None:
    """Add our model class, and let adapters go on layers whose weights a CPU kernel repacked."""
    from flywheel.serving.vllm.launch import SERVER, die_with_parent

    if os.environ.get(SERVER) not in {None, str(os.getpid())}:
        die_with_parent()
    _add_models()
    _allow_adapters_on_repacked_layers()


def _add_models() -> None:
    from vllm import ModelRegistry

    from flywheel.serving.vllm import bert

    # By name: only a process that runs such a model imports it.
    ModelRegistry.register_model(MEAN_BERT, f"flywheel.serving.vllm.bert:{bert.CLASS}")


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
