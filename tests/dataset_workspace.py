"""A workspace with a pipeline that builds datasets by DVC, without a model to train."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from flywheel.contracts.dataset_folder import Manifest
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.datasets.dvc_repository import opened
from flywheel.datasets.workspace import init
from flywheel.kinds import Choice

PIPELINE = """
stages:
  build:
    foreach: {mail: {n: 0}}
    do:
      cmd: mkdir -p data && cp -r staging data/${key}
      deps: [staging]
      outs: ["data/${key}"]
  train:
    foreach: {mail: {n: 0}}
    do:
      cmd:
        - mkdir -p models/${key} && cp -r data/${key} models/${key}/trained
        - date > models/${key}/trained/weights
      deps: ["data/${key}"]
      outs: ["models/${key}/trained"]
  compress:
    foreach: {mail: {n: 0}}
    do:
      cmd:
        - mkdir -p models/${key} && cp -r models/${key}/trained models/${key}/compressed
        - date > models/${key}/compressed/weights
      deps: ["models/${key}/trained"]
      outs: ["models/${key}/compressed"]
  evaluate:
    foreach: {mail: {n: 0}}
    do:
      cmd: mkdir -p evaluation/${key} && echo 1 > evaluation/${key}/metrics.json
      deps: ["models/${key}/compressed"]
      outs: [{"evaluation/${key}/metrics.json": {cache: false}}]
"""


def make(root: Path) -> Path:
    """A workspace of the task `mail`."""
    init(root)
    (root / "dvc.yaml").write_text(PIPELINE)
    return root


def stage(root: Path, count: int, parent: str | None = None) -> Manifest:
    """What the next build will take: so many samples."""
    samples = [
        LabelledSample(
            sample_id=f"s{n:03}",
            content=f"text number {n}",
            label="ab"[n % 2],
            source="expert",
            annotators=("ann",),
            split="holdout" if n % 5 == 0 else None,
            inclusion_probability=1.0,
            audit=False,
            settled_at=datetime(2026, 1, 1, tzinfo=UTC),
            event_id=f"e{n:03}",
        )
        for n in range(count)
    ]
    shutil.rmtree(root / "staging", ignore_errors=True)
    return build_dataset(
        samples,
        DatasetSettings(),
        Choice(("a", "b")),
        task="mail",
        watermark=f"e{count}",
        parent=parent,
        folder=root / "staging",
    )


def repro(root: Path, name: str) -> None:
    """Run one stage as DVC does."""
    with opened(root) as repo:
        repo.reproduce(targets=[f"{name}@mail"], single_item=True)


def build(root: Path, count: int, parent: str | None = None) -> Manifest:
    """A built dataset of so many samples, not committed yet."""
    manifest = stage(root, count, parent)
    repro(root, "build")
    return manifest


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def objects(store: Path) -> dict[str, bytes]:
    """Every object of a store of DVC's, without what it keeps of outputs that git keeps."""
    return {name: held for name, held in files(store / "files/md5").items() if held != b"1\n"}


def git(root: Path, *arguments: str) -> str:
    """What git prints."""
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout
