"""A causal language model in a folder → the same in INT8 or INT4, by llm-compressor."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from flywheel.compression.config import Quantisation
from flywheel.contracts.model_folder import (
    CONFIG_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    Method,
    write_json,
)
from flywheel.errors import ArtefactError, ConfigurationError

COMPRESSOR_PYTHON = "FLYWHEEL_LLM_COMPRESSOR_PYTHON"

_METHODS: dict[Quantisation, Method] = {
    "none": "none",
    "w8a8": "w8a8",
    "w4a16-gptq": "w4a16",
    "w4a16-awq": "w4a16",
}
# The largest that divides every layer's inputs is taken; vLLM's kernels know these.
_GROUPS = (128, 64, 32)
_SCALES = ("_scale", "_zero_point", "_global_scale")


class Job(msgspec.Struct, frozen=True):
    """What one run of llm-compressor does: the model in ``source`` to ``folder``.

    ``calibration`` are rows of token ids; none rounds each weight to the nearest.
    """

    source: str
    folder: str
    quantise: Quantisation
    calibration: list[list[int]]


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

    It runs in the environment of :func:`find_compressor`. Raises ConfigurationError without one,
    ArtefactError with the compressor's own last words when it fails.
    """
    python = find_compressor(os.environ)
    with tempfile.TemporaryDirectory(prefix="flywheel-quantise-") as temporary:
        job = Path(temporary) / "job.json"
        write_json(job, Job(str(source), str(folder), quantise, [list(row) for row in calibration]))
        done = subprocess.run(
            [str(python), "-m", "flywheel.compression.llm_compressor", str(job)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode or not (folder / WEIGHTS_FILE).is_file():
        said = done.stderr.strip().splitlines()
        raise ArtefactError(
            f"llm-compressor could not make {quantise} of {source}: "
            f"{said[-1] if said else f'it ended with {done.returncode}'}"
        )
    halve(folder / WEIGHTS_FILE)
    copy_tokenizer(source, folder)


def find_compressor(environment: Mapping[str, str]) -> Path:
    """The interpreter that has llm-compressor: FLYWHEEL_LLM_COMPRESSOR_PYTHON, or what
    `make llm-compressor` made. Its exact pins go with no other package here, hence its own.

    Raises ConfigurationError, saying how to get it, when it is missing.
    """
    checkout = Path(__file__).resolve().parents[2]
    named = environment.get(COMPRESSOR_PYTHON, "")
    python = Path(named).expanduser() if named else checkout / ".venv-llm-compressor/bin/python"
    if not os.access(python, os.X_OK):
        raise ConfigurationError(
            COMPRESSOR_PYTHON,
            f"there is no interpreter at {python}, and language models are quantised with it",
            "run `make llm-compressor`, which sets it up in an environment of its own",
        )
    return python


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
