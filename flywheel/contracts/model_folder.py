"""A model on disk: the Hugging Face layout, and release.json saying how to ask it and what it is
made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from flywheel.errors import ArtefactError

RELEASE_FILE = "release.json"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
# How the model was made: kept beside it, and no part of what it answers.
TRAINING_REPORT = "training.json"
COMPRESSION_REPORT = "compression.json"
REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE, "tokenizer.json")

Method = Literal["none", "int8-dynamic"]
Pooling = Literal["mean", "cls"]


class FileDigest(msgspec.Struct, frozen=True, kw_only=True):
    """What a file must be."""

    bytes: int
    sha256: str


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """release.json. ``base_model`` is the encoder's name and the SHA-256 of its weights."""

    task: str
    labels: tuple[str, ...]
    temperature: float
    max_tokens: int
    method: Method
    pooling: Pooling
    base_model: str
    dataset_version: str
    files: dict[str, FileDigest]

    @property
    def size_bytes(self) -> int:
        """What all its files take on disk."""
        return sum(file.bytes for file in self.files.values())


class Predictor(Protocol):
    """Anything that answers texts with a probability for every label."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label it knows."""
        ...

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label → probability for each text, in the order of ``texts``."""
        ...


def digest(path: Path) -> FileDigest:
    """Size and SHA-256 of a file."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileDigest(bytes=path.stat().st_size, sha256=sha256)


def digest_model_files(folder: Path) -> dict[str, FileDigest]:
    """The files of a model folder that decide its answers."""
    names = (CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES)
    return {name: digest(folder / name) for name in names if (folder / name).is_file()}


def write_description(folder: Path, description: ModelDescription) -> None:
    """Write release.json."""
    write_json(folder / RELEASE_FILE, description)


def write_json(path: Path, value: object) -> None:
    """Write JSON that people can read and that compares line by line."""
    data = msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2)
    path.write_bytes(data + b"\n")


def read_description(folder: Path) -> ModelDescription:
    """What release.json says, once every file it lists is there with the size and SHA-256 listed.

    Raises ArtefactError, naming the file, otherwise.
    """
    path = folder / RELEASE_FILE
    try:
        description = msgspec.json.decode(path.read_bytes(), type=ModelDescription)
    except FileNotFoundError:
        raise ArtefactError(f"{folder} is no model: it has no {RELEASE_FILE}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
    for name in REQUIRED_FILES:
        if name not in description.files:
            raise ArtefactError(f"{path} lists no {name}")
    for name, expected in description.files.items():
        file = folder / name
        if not file.is_file():
            raise ArtefactError(f"{file} is missing")
        if file.stat().st_size != expected.bytes:
            raise ArtefactError(
                f"{file} has {file.stat().st_size} bytes; {expected.bytes} were released"
            )
        if digest(file) != expected:
            raise ArtefactError(f"{file} is not the file that was released: its SHA-256 differs")
    return description
