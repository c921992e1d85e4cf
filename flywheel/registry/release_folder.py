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

from flywheel import __version__
from flywheel.contracts.bounds import release_problem
from flywheel.contracts.dataset_folder import MANIFEST_FILE, Manifest
from flywheel.contracts.layout import BASES, METRICS_FILE, RELEASES
from flywheel.contracts.model_folder import (
    COMPRESSION_REPORT,
    RELEASE_FILE,
    TOKENIZER_FILES,
    TRAINING_REPORT,
    ModelDescription,
    read_base,
    read_description,
    write_json,
)
from flywheel.contracts.release import Override, Release, release_id
from flywheel.errors import ArtefactError
from flywheel.registry.model_card import model_card

CARD_FILE = "MODEL_CARD.md"
RECORD_FILE = "record.json"
# Where a release's recipe keeps the parts of its id that its folder does not hold, and how it is
# asked and calibrated: all of release.json but its files.
PARTS = "parts"
SERVED = "served"


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
    Raises ArtefactError when the model's files are not what its release.json says, and ValueError
    for a model that neither passed the gate nor was put past it by name.
    """
    description = read_description(compressed)
    parts = {"feature_view": "", "prompt": "", "deployment": "", **(parts or {})}
    release = release_id(description.task, id_parts(description, manifest.version, parts))
    record = Release(
        release=release,
        task=description.task,
        dataset_version=manifest.version,
        parent=parent,
        created_at=created_at,
        git_commit=git_commit,
        accuracy=float(metrics["accuracy"]),
        accuracy_low=float(metrics["accuracy_low"]),
        accuracy_high=float(metrics["accuracy_high"]),
        size_bytes=description.size_bytes,
        expert_labels=manifest.expert_labels,
        seed_labels=manifest.seed_labels,
        auto_labels=manifest.auto_labels,
        auto_label_error=auto_label_error,
        gate_passed=gate_passed,
        gate_reason=gate_reason,
        override=override,
        metrics={**metrics, **_reports(compressed)},
        recipe={
            "flywheel": __version__,
            **(recipe or {}),
            PARTS: parts,
            SERVED: _served(description),
        },
    )
    if (to_root / release).exists():
        verify(to_root / release)
        return record
    _publish(compressed, description, record, manifest, extras or {}, to_root)
    return record


def verify(path: Path, bases: Path | None = None) -> ModelDescription:
    """What a release folder serves, once all that decides its answers is what was released.

    Every file is hashed, and the id over them (and over the base in ``bases``, for an adapter) must
    be the folder's name. Raises ArtefactError, naming the file, otherwise.
    """
    description = read_description(path)
    record = read_record(path)
    if record.release != path.name or record.task != description.task:
        raise ArtefactError(f"{path} holds release {record.release}: the folder was renamed")
    parts = record.recipe.get(PARTS)
    if not isinstance(parts, dict):
        raise ArtefactError(f"{path / RECORD_FILE} does not say what its id was made of")
    release = release_id(record.task, id_parts(description, record.dataset_version, parts))
    if release != path.name:
        raise ArtefactError(f"{path} holds what would be release {release}: it was changed")
    if description.base is not None and bases is not None:
        read_base(bases / description.base.id)
    return description


def verify_release(state: Path, release: str) -> ModelDescription:
    """``verify`` a release of the workspace whose state folder this is."""
    return verify(release_folder(state, release), state / BASES)


def release_folder(state: Path, release: str) -> Path:
    """Where a release lies. Raises ArtefactError for an id that is no folder's name."""
    problem = release_problem(release)
    if problem is not None:
        raise ArtefactError(f"{release!r} is no release id: {problem}")
    return state / RELEASES / release


def read_record(path: Path) -> Release:
    """The record in a release folder. Raises ArtefactError when it is missing or damaged."""
    try:
        return msgspec.json.decode((path / RECORD_FILE).read_bytes(), type=Release)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtefactError(f"{path / RECORD_FILE} cannot be read: {error}") from error


def id_parts(
    description: ModelDescription, dataset_version: str, more: Mapping[str, str]
) -> dict[str, str]:
    """Every part that a release's id is a hash of, by name."""
    hashes = {name: file.sha256 for name, file in description.files.items()}
    tokenizer = {name: hashes[name] for name in sorted(hashes) if name in TOKENIZER_FILES}
    weights = {name: hashes[name] for name in sorted(hashes) if name not in TOKENIZER_FILES}
    asked = description.prompt
    base = description.base
    # A release that was made before letters were kept has the id that it had.
    letters = sorted(description.letters.items())
    return {
        **more,
        **({"letters": repr(letters)} if letters else {}),
        "weights": ",".join(f"{name}={value}" for name, value in weights.items()),
        "tokenizer": ",".join(f"{name}={value}" for name, value in tokenizer.items()),
        "calibration": repr(description.temperature),
        "quantisation": description.method,
        "steps": "\x1f".join(description.steps),
        "kind": f"{description.kind}/{description.output}",
        "labels": "\x1f".join(description.labels),
        # The ids of earlier releases, which know no normalising, stay what they are.
        "pooling": f"{description.pooling}/{description.max_tokens}"
        + ("/normalise" if description.normalise else ""),
        "messages": "" if asked is None else msgspec.json.encode(asked, order="sorted").decode(),
        "base": more.get("base", "") if base is None else f"{base.id}/{base.method}",
        "dataset": dataset_version,
    }


def sweep(to_root: Path, task: str) -> None:
    """Remove what a process that was killed left half made; by the one that may write now."""
    for left in to_root.glob(f"{_making(task)}*"):
        shutil.rmtree(left, ignore_errors=True)


def _making(task: str) -> str:
    return f".making-{task}."  # a task's name has no dot


def _served(description: ModelDescription) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(description)
    return {name: value for name, value in values.items() if name not in ("files", "task")}


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
    with tempfile.TemporaryDirectory(prefix=_making(record.task), dir=to_root) as made:
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
            if (to_root / record.release).is_symlink():  # to what the cache no longer holds
                (to_root / record.release).unlink()
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
