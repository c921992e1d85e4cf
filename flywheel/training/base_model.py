"""Whether a base model's folder can be trained from, told by its files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import msgspec

from flywheel.contracts.base_folder import base_file_names
from flywheel.contracts.encoder_config import unread_part
from flywheel.contracts.model_folder import CONFIG_FILE
from flywheel.errors import ArtefactError

_HEADER_BYTES = 8  # a safetensors file begins with the length of its table of contents
_LONGEST_HEADER = 100_000_000
_TOKENIZERS = ("tokenizer.json", "vocab.txt")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def base_model_problem(folder: Path, model: Literal["encoder", "llm"]) -> str | None:
    """Why no turn can start from ``folder``, or None.

    Reads names, the configuration and the weights' table of contents: milliseconds, and no torch.
    """
    try:
        about = _configuration(folder)
        if model == "llm":
            _require_language_model(folder, about)
        else:
            _require_encoder(folder, about)
        for weights in sorted(folder.glob("*.safetensors")):
            _require_whole(weights)
    except ArtefactError as error:
        return str(error)
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}"
    return None


def _configuration(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG_FILE).is_file():
        raise ArtefactError(f"{folder} holds no base model (no {CONFIG_FILE})")
    try:
        return msgspec.json.decode((folder / CONFIG_FILE).read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ArtefactError(f"{folder / CONFIG_FILE} cannot be read: {error}") from error


def _require_language_model(folder: Path, about: dict[str, Any]) -> None:
    named = about.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if architecture and not architecture.endswith("ForCausalLM"):
        raise ArtefactError(f"{folder} holds a {architecture}, which is no base for an llm")
    base_file_names(folder)


def _require_encoder(folder: Path, about: dict[str, Any]) -> None:
    if about.get("model_type") != "bert":
        raise ArtefactError(
            f"{folder} is of type {about.get('model_type')!r}, which is no base for an encoder: "
            "use one of the BERT family (MiniLM, BGE, E5, GTE and others are)"
        )
    problem = unread_part(about)
    if problem is not None:
        raise ArtefactError(f"{folder} is not read here: {problem}")
    pickled = any((folder / name).is_file() for name in _PICKLES)
    if not pickled and not any(folder.glob("*.safetensors")):
        raise ArtefactError(f"{folder} has no weights: it needs model.safetensors")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ArtefactError(f"{folder} has no tokenizer.json")


def _require_whole(weights: Path) -> None:
    """The tensors that a file's table of contents names must end where the file ends."""
    with weights.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_BYTES), "little")
        if not 0 < length < _LONGEST_HEADER:
            raise ArtefactError(f"{weights} is no safetensors file: fetch it again")
        try:
            table = json.loads(stream.read(length))
            ends = [row["data_offsets"][1] for name, row in table.items() if name[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{weights} is damaged: fetch it again") from error
    whole = _HEADER_BYTES + length + max(ends, default=0)
    if weights.stat().st_size != whole:
        raise ArtefactError(
            f"{weights} has {weights.stat().st_size} bytes instead of {whole}: fetch it again"
        )
