"""Release folders of a few hundred bytes: sound files, but no model that answers."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flywheel.contracts.base_folder import put_base
from flywheel.contracts.dataset_folder import Manifest
from flywheel.contracts.layout import BASES, RELEASES
from flywheel.contracts.model_folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    ModelDescription,
    digest_model_files,
    write_description,
)
from flywheel.contracts.release import Release
from flywheel.evaluation.metrics import measure
from flywheel.kinds import Choice
from flywheel.registry.release_folder import assemble

TASK = "topics"
LABELS = ("weather", "money")
START = datetime(2026, 1, 2, tzinfo=UTC)


def safetensors(tensors: Mapping[str, Sequence[int]], fill: int = 0) -> bytes:
    """A safetensors file of 32-bit tensors, name → shape."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in tensors.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes([fill]) * at


def manifest(version: str = "d-0123456789ab", **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "version": version,
        "task": TASK,
        "labels": LABELS,
        "watermark": "7",
        "parent": None,
        "split_rule": "as marked",
        "files": {},
        "counts": {"train": {"expert": 3}},
        "label_counts": {"train": {"weather": 2, "money": 1}},
        "left_out": {},
    }
    return Manifest(**(values | changes))


def make_model(folder: Path, *, base: Path | None = None, fill: int = 0, **changes: Any) -> Path:
    """A model folder; with ``base``, an adapter of what is put there."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    reference = None
    if base is None:
        (folder / CONFIG_FILE).write_text('{"model_type": "bert"}')
        (folder / WEIGHTS_FILE).write_bytes(safetensors({"w": [2, 2]}, fill))
    else:
        source = folder.with_name(f"{folder.name}-base")
        make_model(source)
        reference = put_base(source, base, name="tiny")
        (folder / ADAPTER_CONFIG_FILE).write_text('{"r": 8}')
        (folder / ADAPTER_FILE).write_bytes(safetensors({"lora": [2, 2]}, fill))
    values: dict[str, Any] = {
        "task": TASK,
        "labels": LABELS,
        "temperature": 1.5,
        "max_tokens": 32,
        "method": "none",
        "pooling": "mean",
        "base_model": "tiny@0",
        "dataset_version": "d-0123456789ab",
        "files": digest_model_files(folder),
        "kind": "encoder" if base is None else "llm",
        "base": reference,
    }
    write_description(folder, ModelDescription(**(values | changes)))
    return folder


def make_release(
    state: Path, *, adapter: bool = False, name: str = "one", fill: int = 0, **given: Any
) -> Release:
    """A release in ``state/releases``. ``given`` goes to ``assemble``."""
    state.mkdir(parents=True, exist_ok=True)
    model = make_model(state / f"model-{name}", base=state / BASES if adapter else None, fill=fill)
    values: dict[str, Any] = {
        "metrics": measure([], Choice(LABELS), 0.95),
        "manifest": manifest(),
        "to_root": state / RELEASES,
        "created_at": START,
        "git_commit": "abc123",
        "parent": None,
        "gate_passed": True,
        "gate_reason": "first release",
        "parts": {"deployment": "embedded"},
    }
    return assemble(model, **(values | given))
