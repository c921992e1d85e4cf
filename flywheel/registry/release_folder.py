"""Puts a release together: what an engine serves, its metrics, its dataset's manifest, its card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from flywheel.contracts.dataset_folder import MANIFEST_FILE, Manifest
from flywheel.contracts.model_folder import (
    COMPRESSION_REPORT,
    CONFIG_FILE,
    RELEASE_FILE,
    TRAINING_REPORT,
    WEIGHTS_FILE,
    ModelDescription,
    read_description,
    write_json,
)
from flywheel.contracts.release import Override, Release, release_id
from flywheel.errors import ArtefactError
from flywheel.registry.model_card import model_card

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.jsonl"
CARD_FILE = "MODEL_CARD.md"
RECORD_FILE = "record.json"


def assemble(
    compressed: Path,
    *,
    metrics: Mapping[str, Any],
    manifest: Manifest,
    to_root: Path,
    created_at: datetime,
    git_commit: str,
    parent: str | None,
    gate_passed: bool,
    gate_reason: str,
    override: Override | None = None,
    recipe: Mapping[str, Any] | None = None,
    auto_label_error: float | None = None,
    parts: Mapping[str, str] | None = None,
    extras: Mapping[str, Path] | None = None,
) -> Release:
    """Copy a compressed model to ``to_root/<release id>`` in one step and describe it.

    ``parts`` are the parts of the id that this folder does not hold (feature_view, prompt,
    deployment); ``extras`` more files to keep, by name (the gate's predictions, for one). The same
    model, dataset and parts give the same id; a folder that is there already is verified and kept.
    Raises ArtefactError when the model's files are not what its release.json says.
    """
    description = read_description(compressed)
    release = release_id(description.task, _parts(description, manifest, parts or {}))
    record = Release(
        release=release,
        task=description.task,
        path=str(to_root / release),
        dataset_version=manifest.version,
        parent=parent,
        created_at=created_at,
        git_commit=git_commit,
        accuracy=float(metrics["accuracy"]),
        accuracy_low=float(metrics["accuracy_low"]),
        accuracy_high=float(metrics["accuracy_high"]),
        size_bytes=description.size_bytes,
        expert_labels=manifest.expert_labels,
        auto_labels=manifest.auto_labels,
        auto_label_error=auto_label_error,
        gate_passed=gate_passed,
        gate_reason=gate_reason,
        override=override,
        metrics={**metrics, **_reports(compressed)},
        recipe=dict(recipe or {}),
    )
    if (to_root / release).exists():
        verify(to_root / release)
        return record
    _publish(compressed, description, record, manifest, extras or {}, to_root)
    return record


def verify(path: Path) -> ModelDescription:
    """What a release folder serves, once its files and its name are what they must be.

    Raises ArtefactError, naming the file, otherwise.
    """
    description = read_description(path)
    try:
        record = msgspec.json.decode((path / RECORD_FILE).read_bytes(), type=Release)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtefactError(f"{path / RECORD_FILE} cannot be read: {error}") from error
    if record.release != path.name or record.task != description.task:
        raise ArtefactError(f"{path} holds release {record.release}: the folder was renamed")
    return description


def _parts(
    description: ModelDescription, manifest: Manifest, more: Mapping[str, str]
) -> dict[str, str]:
    files = description.files
    tokenizer = {n: f.sha256 for n, f in files.items() if n not in (WEIGHTS_FILE, CONFIG_FILE)}
    return {
        "feature_view": "",
        "prompt": "",
        "deployment": "",
        **more,
        "weights": files[WEIGHTS_FILE].sha256,
        "architecture": files[CONFIG_FILE].sha256,
        "tokenizer": ",".join(f"{name}={tokenizer[name]}" for name in sorted(tokenizer)),
        "calibration": repr(description.temperature),
        "quantisation": description.method,
        "labels": "\x1f".join(description.labels),
        "pooling": f"{description.pooling}/{description.max_tokens}",
        "dataset": manifest.version,
    }


def _reports(compressed: Path) -> dict[str, Any]:
    """How the model was trained and compressed, as metrics of the release."""
    files = {"training": TRAINING_REPORT, "compression": COMPRESSION_REPORT}
    return {
        name: msgspec.json.decode((compressed / file).read_bytes())
        for name, file in files.items()
        if (compressed / file).is_file()
    }


def _publish(
    compressed: Path,
    description: ModelDescription,
    record: Release,
    manifest: Manifest,
    extras: Mapping[str, Path],
    to_root: Path,
) -> None:
    to_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=to_root) as made:
        folder = Path(made) / record.release
        folder.mkdir()
        for name in (*description.files, RELEASE_FILE):
            shutil.copyfile(compressed / name, folder / name)
        for name, source in extras.items():
            shutil.copyfile(source, folder / name)
        write_json(folder / METRICS_FILE, record.metrics)
        write_json(folder / MANIFEST_FILE, manifest)
        write_json(folder / RECORD_FILE, record)
        (folder / CARD_FILE).write_text(model_card(record, description, manifest), "utf-8")
        read_description(folder)
        for file in folder.iterdir():
            _sync(file)
        _sync(folder)
        try:
            folder.rename(to_root / record.release)
        except OSError:
            # Someone else published the same release meanwhile; it is the same by its id.
            verify(to_root / record.release)
        _sync(to_root)


def _sync(path: Path) -> None:
    """Have the disk hold what was written, so that a power cut leaves no half a release."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
