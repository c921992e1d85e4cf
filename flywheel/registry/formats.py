"""Which files of a model may come in: data that is only ever read, never code or pickles."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from flywheel.errors import ArtefactError

# Formats whose reader runs what the file says, or that are code.
PICKLES = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".hdf5", ".npy", ".npz"}
)
CODE = frozenset({".py", ".pyc", ".so", ".dll", ".sh", ".exe", ".ipynb"})
DATA = frozenset(
    {".json", ".jsonl", ".safetensors", ".jinja", ".txt", ".md", ".model", ".png", ".gguf"}
)
MAX_JSON = 256 << 20
MAX_HEADER = 100 << 20
_DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
}


def check_name(name: str) -> None:
    """Raises ArtefactError for a file that may run code when it is read, or of no known format."""
    suffix = Path(name).suffix.lower()
    if suffix in PICKLES:
        raise ArtefactError(
            f"{name} may run code when it is read ({suffix} holds pickles): "
            "save the weights as safetensors and remove it"
        )
    if suffix in CODE:
        raise ArtefactError(f"{name} is code: a model that needs code of its own is not accepted")
    if suffix not in DATA:
        raise ArtefactError(f"{name} is of no format that a model is made of: remove it")


def check_folder(folder: Path) -> None:
    """Check every file of a model folder, and that it needs no code of its own.

    Raises ArtefactError, naming the file.
    """
    for path in sorted(folder.iterdir()):
        check_file(path)
    check_code(folder)


def check_code(folder: Path) -> None:
    """Raises ArtefactError for a model whose configuration asks for code of its own."""
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        values = read_json(folder / name) if (folder / name).is_file() else {}
        for key in ("auto_map", "auto_mapping"):
            if isinstance(values, dict) and values.get(key) is not None:
                raise ArtefactError(
                    f"{folder / name} has an {key}: it needs code of its own, which is not run"
                )


def check_file(path: Path) -> None:
    """Check one file by its name and by what it holds. Raises ArtefactError, naming it."""
    check_name(path.name)
    if path.suffix == ".safetensors":
        check_safetensors(path)
    elif path.suffix == ".json":
        read_json(path)


def read_json(path: Path) -> Any:
    """A JSON file of a bounded size. Raises ArtefactError, naming it."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ArtefactError(f"{path} is larger than {MAX_JSON >> 20} MB")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is not valid JSON: {error}") from error


def check_safetensors(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor → dtype, shape, data_offsets.

    Raises ArtefactError for one that is truncated, or whose tensors do not tile its bytes exactly.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        raw = stream.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise ArtefactError(f"{path} is no safetensors file, or is cut off")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise ArtefactError(f"{path} is no safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise ArtefactError(f"{path} is no safetensors file: its header is no object")
    header.pop("__metadata__", None)
    try:
        _check_tensors(header, size - 8 - length)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path} is no sound safetensors file: {error}") from error
    return header


def _check_tensors(header: dict[str, Any], size: int) -> None:
    at = 0
    for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = (int(offset) for offset in tensor["data_offsets"])
        count = 1
        for side in tensor["shape"]:
            count *= int(side)
        bits = _DTYPE_BITS.get(tensor["dtype"])
        if bits is None:
            raise ValueError(f"{name} is of the unknown type {tensor['dtype']!r}")
        if begin != at or end - begin != count * bits // 8:
            raise ValueError(f"the bytes of {name} are not where its shape needs them")
        at = end
    if at != size:
        raise ValueError(f"its tensors take {at} bytes, and {size} are there")
