"""A causal language model in a folder → the same in INT8 or INT4, by llm-compressor."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel.compression.config import Quantisation
from flywheel.contracts.model_folder import CONFIG_FILE, TOKENIZER_FILES, WEIGHTS_FILE, Method
from flywheel.errors import ConfigurationError

_METHODS: dict[Quantisation, Method] = {
    "none": "none",
    "w8a8": "w8a8",
    "w4a16-gptq": "w4a16",
    "w4a16-awq": "w4a16",
}
# The largest that divides every layer's inputs is taken; vLLM's kernels know these.
_GROUPS = (128, 64, 32)
_KEPT = ("lm_head",)
_SCALES = ("_scale", "_zero_point", "_global_scale")


def method_of(quantise: Quantisation) -> Method:
    """How a recipe's weights are stored. Raises ConfigurationError for an encoder's recipe."""
    if quantise not in _METHODS:
        raise ConfigurationError(
            "compression.recipes",
            f"quantise = {quantise!r} is an encoder's",
            f"a language model takes {', '.join(_METHODS)}",
        )
    return _METHODS[quantise]


def quantise_model(
    source: Path, folder: Path, quantise: Quantisation, calibration: Sequence[Sequence[int]]
) -> None:
    """Write the model of ``source`` to ``folder`` with its linear layers quantised.

    ``calibration`` are token ids of texts like those to be answered. W8A8 without any rounds each
    weight to the nearest; with some it is GPTQ (Frantar et al. 2022, arXiv 2210.17323), as for
    "w4a16-gptq". "w4a16-awq" (Lin et al. 2023, arXiv 2306.00978) rescales inputs of layers, so an
    adapter that was trained on the model before fits no longer.
    """
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch
    from llmcompressor import oneshot
    from llmcompressor.core import reset_session
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=True)
    if torch.cuda.is_available():
        model.to("cuda")
    reset_session()
    told: dict[str, Any] = {"recipe": _recipe(model, quantise, calibrated=bool(calibration))}
    if calibration:
        told |= {
            "dataset": _loader(calibration),
            "num_calibration_samples": len(calibration),
            "max_seq_length": max(map(len, calibration)),
        }
    with _pinning_only_with_a_gpu():
        oneshot(model=model, **told)
    model.to("cpu")
    with warnings.catch_warnings():
        # It counts the model as offloaded to the memory that it is in.
        warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded")
        # One file: what is served from a release lists one.
        model.save_pretrained(folder, save_compressed=True, max_shard_size="1000GB")
    reset_session()
    (folder / "recipe.yaml").unlink(missing_ok=True)
    halve(folder / WEIGHTS_FILE)
    copy_tokenizer(source, folder)


def halve(file: Path) -> None:
    """Rewrite what is left in FP32 (embeddings, norms) as FP16, with ten bits of each value; scales
    stay, and so does a tensor that FP16 cannot hold. In a small model embeddings are most of it."""
    import torch
    from safetensors.torch import load_file, save_file

    def half(name: str, tensor: Any) -> Any:
        if tensor.dtype is not torch.float32 or name.endswith(_SCALES):
            return tensor
        short = tensor.to(torch.float16)
        return short if bool(torch.isfinite(short).all()) else tensor

    weights = {name: half(name, tensor) for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files, chat template and all."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def group_size(inputs: Sequence[int]) -> int:
    """Weights that share a scale in INT4: the largest group that divides every layer's inputs.

    Raises ConfigurationError when none does.
    """
    common = math.gcd(*inputs)
    for size in _GROUPS:
        if common % size == 0:
            return size
    raise ConfigurationError(
        "compression.recipes",
        f"the layers have multiples of {common} inputs, and INT4 needs groups of {_GROUPS[-1]}",
        "use w8a8",
    )


def model_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder."""
    loaded: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    return loaded


def _recipe(model: Any, quantise: Quantisation, *, calibrated: bool) -> list[Any]:
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from llmcompressor.modifiers.transform import AWQModifier

    ignore = list(_KEPT)
    if quantise == "w8a8":
        kind = GPTQModifier if calibrated else QuantizationModifier
        return [kind(targets="Linear", scheme="W8A8", ignore=ignore)]
    groups = {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": group_size(_inputs(model)),
            },
        }
    }
    if quantise == "w4a16-gptq":
        return [GPTQModifier(config_groups=groups, ignore=ignore)]
    return [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=ignore)]


def _inputs(model: Any) -> list[int]:
    from torch import nn

    return [
        module.in_features
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith(_KEPT)
    ]


@contextmanager
def _pinning_only_with_a_gpu() -> Iterator[None]:
    # llm-compressor 0.14 pins what AWQ keeps even where no GPU could read it, and fails there.
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    pin = IntermediatesCache.pin_memory
    if not torch.cuda.is_available():
        IntermediatesCache.pin_memory = lambda *_: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = pin


def _loader(calibration: Sequence[Sequence[int]]) -> Any:
    import torch
    from torch.utils.data import DataLoader

    rows = [
        {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long()}
        for ids in map(list, calibration)
    ]
    return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]
