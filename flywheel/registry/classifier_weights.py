"""The weights of a classifier as one file, however many they came in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.contracts.model_folder import WEIGHTS_FILE
from flywheel.errors import ArtefactError
from flywheel.registry.formats import check_safetensors, read_json

if TYPE_CHECKING:
    from torch import Tensor

_INDEX_FILE = f"{WEIGHTS_FILE}.index.json"


def write_weights(folder: Path, target: Path) -> None:
    """Copy model.safetensors to ``target``, or put the files that its index names together.

    Raises ArtefactError, naming the file, for an index and files that don't go together.
    """
    if (folder / WEIGHTS_FILE).is_file():
        shutil.copyfile(folder / WEIGHTS_FILE, target)
        return
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Tensor] = {}
    for name, wanted in sorted(_parts(folder).items()):
        check_safetensors(folder / name)
        part = load_file(folder / name)
        absent = sorted(wanted - part.keys())
        if absent:
            raise ArtefactError(f"{folder / name} has no {absent[0]}, which {_INDEX_FILE} names")
        twice = sorted(tensors.keys() & part.keys())
        if twice:
            raise ArtefactError(f"{folder / name} has {twice[0]}, as another file does")
        tensors |= part
    save_file(tensors, target, metadata={"format": "pt"})


def _parts(folder: Path) -> dict[str, set[str]]:
    """The files that weights lie in, and the tensors that each must have."""
    alone = sorted(folder.glob("model*.safetensors"))
    if not (folder / _INDEX_FILE).is_file():
        return {file.name: set() for file in alone}
    index = read_json(folder / _INDEX_FILE)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not named:
        raise ArtefactError(f"{folder / _INDEX_FILE} names no file of weights")
    parts: dict[str, set[str]] = {}
    for tensor, file in named.items():
        if not isinstance(file, str) or Path(file).name != file or not (folder / file).is_file():
            raise ArtefactError(f"{folder / _INDEX_FILE} names {file!r}, which is not there")
        parts.setdefault(file, set()).add(str(tensor))
    return parts
