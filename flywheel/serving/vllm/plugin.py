"""What vLLM is taught at its start: runs inside vLLM's own environment, in each of its processes.

vLLM finds ``register`` by the entry point group ``vllm.general_plugins``.
"""

from __future__ import annotations

import os
from typing import Any

# The architectures of config.json that name our class; the suffix tells vLLM that it classifies.
# A config.json with the first one says nothing else of the pooling.
MEAN_BERT = "FlywheelMeanBertForSequenceClassification"
POOLED_BERT = "FlywheelPooledBertForSequenceClassification"


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
    for name in (MEAN_BERT, POOLED_BERT):
        ModelRegistry.register_model(name, f"flywheel.serving.vllm.bert:{bert.CLASS}")


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
