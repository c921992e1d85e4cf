"""Puts a language model among the bases: by its id, with hard links where the disk allows it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from flywheel.contracts.linked_files import link_or_copy
from flywheel.contracts.model_folder import (
    BASE_FILE,
    CONFIG_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    BaseDescription,
    BaseReference,
    Method,
    base_id,
    digest,
    read_base,
    write_json,
)
from flywheel.errors import ArtefactError

# Beside a quantised base: from which base, and how; no part of its id.
MADE_FILE = "made.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
_OLDER_TOKENIZERS = ("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")


class BaseOrigin(msgspec.Struct, frozen=True):
    """made.json: the id of the base that was quantised, and how."""

    source: str
    quantise: str


def trained_on(bases: Path, base: str) -> str:
    """The base that an adapter on ``base`` was trained on: what ``base`` was quantised from, or
    itself."""
    try:
        made = msgspec.json.decode((bases / base / MADE_FILE).read_bytes(), type=BaseOrigin)
    except (OSError, msgspec.MsgspecError):
        return base
    return made.source


def base_file_names(folder: Path) -> tuple[str, ...]:
    """The files of a Hugging Face folder that decide its answers, weights in one file or many.

    Raises ArtefactError for a folder without weights in safetensors, or without a tokenizer.
    """
    weights = sorted(file.name for file in folder.glob("model*.safetensors"))
    if not (folder / CONFIG_FILE).is_file():
        raise ArtefactError(f"{folder} holds no model: it has no {CONFIG_FILE}")
    if not weights:
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        pickled = f"only {pickles[0]}, which can run code when it is read; " if pickles else ""
        raise ArtefactError(f"{folder} has no weights in safetensors: {pickled}convert them first")
    if len(weights) > 1 and not (folder / _INDEX_FILE).is_file():
        raise ArtefactError(f"{folder} has weights in {len(weights)} files, but no {_INDEX_FILE}")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ArtefactError(f"{folder} has no tokenizer.json")
    others = (CONFIG_FILE, _INDEX_FILE, *TOKENIZER_FILES, *_OLDER_TOKENIZERS)
    return (*weights, *(name for name in others if (folder / name).is_file()))


def put_base(source: Path, bases: Path, *, name: str, method: Method = "none") -> BaseReference:
    """The base of ``source``'s files, put at ``bases/<base id>`` unless it is there.

    Raises ArtefactError for a folder that holds no usable model.
    """
    description = BaseDescription(
        name=name,
        method=method,
        files={file: digest(source / file) for file in base_file_names(source)},
    )
    folder = bases / base_id(description.files)
    # A link leads to the cache of what was fetched, which may be evicted.
    if _is_there(folder) and not folder.is_symlink():
        return read_base(folder).reference
    bases.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=bases, prefix=f".{folder.name}-"))
    try:
        part.chmod(0o755)  # a temporary folder is its maker's alone
        for file in description.files:
            link_or_copy(source / file, part / file)
        write_json(part / BASE_FILE, description)
        _clear(folder)
        os.replace(part, folder)
    except OSError:
        if not _is_there(folder):  # or another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return description.reference


def _clear(folder: Path) -> None:
    """Remove what lies there damaged, half made, or by a link."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _is_there(folder: Path) -> bool:
    try:
        read_base(folder)
    except ArtefactError:
        return False
    return True
