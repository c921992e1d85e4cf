"""A model on disk: the Hugging Face layout, and release.json saying how to ask it and what it is
made of. A LoRA adapter names the base it belongs to; bases lie beside the releases, by their id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from flywheel.errors import ArtefactError

RELEASE_FILE = "release.json"
BASE_FILE = "base.json"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
# The step of a release whose adapter became part of its weights.
MERGED = "LoRA adapter merged into its base"
# How the model was made: kept beside it, and no part of what it answers.
TRAINING_REPORT = "training.json"
COMPRESSION_REPORT = "compression.json"
REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE, "tokenizer.json")
REQUIRED_ADAPTER_FILES = (ADAPTER_CONFIG_FILE, ADAPTER_FILE)

# What answers: an encoder with a classification head, or a causal language model.
ModelKind = Literal["encoder", "llm"]
# What it answers with: one of its labels, with a probability for each, or free text.
Output = Literal["label", "text"]
# How the weights are stored and multiplied; w8a8 and w4a16 are compressed-tensors as vLLM loads it.
Method = Literal["none", "int8-dynamic", "int8-static", "int8-qat", "w8a8", "w4a16"]
# How an encoder's token states become one vector (see contracts/pooling.py).
Pooling = Literal[
    "mean", "cls", "first_token", "last_token", "max", "mean_sqrt_len", "weighted_mean"
]


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """How a language model is asked: part of the release, since it decides the answers.

    ``template`` holds ``{text}`` once. The chat template of the tokenizer does the rest.
    ``answers`` maps each label to what the model writes for it: one token each, all different, so
    that one step tells the probability of every label. It is empty where the output is text.
    """

    system: str = ""
    template: str = "{text}"
    max_answer_tokens: int = 128
    answers: dict[str, str] = {}

    def messages(self, text: str) -> list[dict[str, str]]:
        """The chat messages for one text."""
        user = {"role": "user", "content": self.template.replace("{text}", text)}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]


class BaseReference(msgspec.Struct, frozen=True, kw_only=True):
    """The weights that an adapter changes. ``id`` is 12 hexadecimal digits over every file of the
    base (``base_id``) and the name of its folder; ``method`` is how they are stored."""

    id: str
    name: str
    method: Method


class FileDigest(msgspec.Struct, frozen=True, kw_only=True):
    """What a file must be."""

    bytes: int
    sha256: str


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """release.json. ``base_model`` is the base's name and the SHA-256 of its weights.

    ``steps`` are what was done before quantisation, in words ("25 % of FFN channels removed").
    ``base`` is None for a model that is complete; with it the folder holds a LoRA adapter.
    ``pooling`` is an encoder's, and whether what it pools is brought to length 1 (``normalise``);
    ``prompt`` is a language model's, and ``letters`` the token that each label is answered with
    (none in a release that was made before they were kept). ``temperature`` divides logits.
    """

    task: str
    labels: tuple[str, ...]
    temperature: float
    max_tokens: int
    method: Method
    pooling: Pooling
    base_model: str
    dataset_version: str
    files: dict[str, FileDigest]
    kind: ModelKind = "encoder"
    output: Output = "label"
    steps: tuple[str, ...] = ()
    normalise: bool = False
    prompt: Prompt | None = None
    letters: dict[str, int] = {}
    base: BaseReference | None = None

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
    names = (
        *(CONFIG_FILE, WEIGHTS_FILE, ADAPTER_CONFIG_FILE, ADAPTER_FILE),
        *TOKENIZER_FILES,
    )
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
    required = REQUIRED_FILES if description.base is None else REQUIRED_ADAPTER_FILES
    for name in required:
        if name not in description.files:
            raise ArtefactError(f"{path} lists no {name}")
    _check_files(folder, description.files)
    return description


def base_id(files: dict[str, FileDigest]) -> str:
    """The id of a base: 12 hexadecimal digits of a SHA-256 over its files' names and hashes."""
    lines = "".join(f"{name}={files[name].sha256}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


class BaseDescription(msgspec.Struct, frozen=True, kw_only=True):
    """base.json: a language model that adapters refer to. Its folder is named after its id."""

    name: str
    method: Method
    files: dict[str, FileDigest]

    @property
    def reference(self) -> BaseReference:
        """How an adapter names it."""
        return BaseReference(id=base_id(self.files), name=self.name, method=self.method)


def read_base(folder: Path) -> BaseDescription:
    """What base.json says, once every file it lists is there with the size and SHA-256 listed.

    Raises ArtefactError, naming the file, otherwise.
    """
    path = folder / BASE_FILE
    try:
        description = msgspec.json.decode(path.read_bytes(), type=BaseDescription)
    except FileNotFoundError:
        raise ArtefactError(f"{folder} is no base model: it has no {BASE_FILE}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
    if base_id(description.files) != folder.name:
        raise ArtefactError(f"{folder} holds base {base_id(description.files)}: it was renamed")
    _check_files(folder, description.files)
    return description


def _check_files(folder: Path, files: dict[str, FileDigest]) -> None:
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            raise ArtefactError(f"{file} is missing")
        if file.stat().st_size != expected.bytes:
            raise ArtefactError(
                f"{file} has {file.stat().st_size} bytes; {expected.bytes} were released"
            )
        if digest(file) != expected:
            raise ArtefactError(f"{file} is not the file that was released: its SHA-256 differs")
