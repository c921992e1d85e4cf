"""One run of llm-compressor, in an environment that has it: `python -m … JOB.json`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from flywheel.compression.config import Quantisation
from flywheel.compression.llm_quantize import Job, group_size

_KEPT = ("lm_head",)


def run(job: Job) -> None:
    """Write the quantised weights and their config to ``job.folder``, in one file."""
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        job.source, dtype=torch.float32, local_files_only=True
    )
    if torch.cuda.is_available():
        model.to("cuda")
    arguments: dict[str, Any] = {"recipe": _recipe(model, job.quantise, bool(job.calibration))}
    if job.calibration:
        arguments |= {
            "dataset": _loader(job.calibration),
            "num_calibration_samples": len(job.calibration),
            "max_seq_length": max(map(len, job.calibration)),
        }
    with _pinning_only_with_a_gpu():
        oneshot(model=model, **arguments)
    model.to("cpu")
    with warnings.catch_warnings():
        # It counts the model as offloaded to the memory that it is in.
        warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded")
        # One file: what is served from a release lists one.
        model.save_pretrained(job.folder, save_compressed=True, max_shard_size="1000GB")
    (Path(job.folder) / "recipe.yaml").unlink(missing_ok=True)


def _recipe(model: Any, quantise: Quantisation, calibrated: bool) -> list[Any]:
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


if __name__ == "__main__":
    run(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job))
