"""A checkpoint that a training run goes on from bit for bit: one file, replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from flywheel.training.llm.precision import LossScale

CHECKPOINT_FILE = "checkpoint.safetensors"


class Progress(msgspec.Struct, kw_only=True):
    """Where a run is. ``step`` steps are done; sums over answers' tokens by epoch; ``made`` names
    what the run is made of, so that no other run continues it."""

    made: str
    step: int = 0
    lost: list[float] = []
    right: list[int] = []
    asked: list[int] = []
    skipped: int = 0
    seconds: float = 0.0
    scale: float = 1.0
    good: int = 0

    def keep_scale(self, scale: LossScale) -> None:
        """Remember the loss scale."""
        self.scale, self.good = scale.scale, scale.good


def write_checkpoint(
    folder: Path, progress: Progress, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> None:
    """Replace the checkpoint in ``folder``: weights, optimiser, random states, place in the data.

    The plan of batches and the learning rate follow from the step's number and need no state.
    """
    from safetensors.torch import save

    tensors = {f"weight.{name}": tensor.detach().cpu() for name, tensor in trained.items()}
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimiser.{index}.{key}"] = torch.as_tensor(value).cpu()
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    data = save(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        metadata={"progress": msgspec.json.encode(progress).decode()},
    )
    part = folder / f"{CHECKPOINT_FILE}.part"
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, folder / CHECKPOINT_FILE)


def read_checkpoint(
    folder: Path, made: str, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> Progress | None:
    """Restore everything from the checkpoint in ``folder`` and tell where the run was.

    None, and nothing restored, when there is none or it is of a run made of something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / CHECKPOINT_FILE, framework="pt") as file:
            progress = msgspec.json.decode(file.metadata()["progress"], type=Progress)
            if progress.made != made:
                return None
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, msgspec.MsgspecError):
        return None
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"weight.{name}"])
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return progress
