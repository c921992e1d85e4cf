"""Dataset versions in git and DVC: committed, tagged, and given back byte for byte."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flywheel.contracts.dataset_folder import Manifest
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.datasets.workspace import checkout, commit_dataset, init, versions
from flywheel.errors import NotFound, WorkspaceError

# DVC's own dependency warns of its future; DVC then skips what it was asked to push.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

PIPELINE = """
stages:
  build:
    foreach: {mail: {n: 0}}
    do:
      cmd: mkdir -p data && cp -r staging data/${key}
      deps: [staging]
      outs: ["data/${key}"]
"""


def build(root: Path, count: int, parent: str | None) -> Manifest:
    samples = [
        LabelledSample(
            sample_id=f"s{n:03}",
            text=f"text number {n}",
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
    manifest = build_dataset(
        samples,
        DatasetSettings(),
        ("a", "b"),
        task="mail",
        watermark=f"e{count}",
        parent=parent,
        folder=root / "staging",
    )
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "-q", "build@mail"], cwd=root, check=True, timeout=60
    )
    return manifest


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout


def test_each_version_is_committed_tagged_and_given_back(tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    init(root)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "private.txt").write_text("not the workspace's")
    first = build(root, 40, None)
    one = commit_dataset(root, "mail", first)
    before = files(root / "data/mail")
    second = build(root, 60, first.version)
    two = commit_dataset(root, "mail", second)

    assert one.git_commit != two.git_commit
    assert one.dvc_hash.endswith(".dir")
    assert [commit.version for commit in versions(root, "mail")] == [first.version, second.version]
    assert f"dataset/mail/{first.version}" in git(root, "tag", "-l")
    assert "private.txt" in git(root, "status", "--short")
    assert "jsonl" not in git(root, "ls-files")
    assert commit_dataset(root, "mail", second) == two

    current = files(root / "data/mail")
    assert checkout(root, "mail", first.version, tmp_path / "again") == first
    assert files(tmp_path / "again") == before
    assert files(root / "data/mail") == current

    shutil.rmtree(root / ".dvc/cache")
    checkout(root, "mail", first.version, tmp_path / "from-remote")
    assert files(tmp_path / "from-remote") == before

    with pytest.raises(WorkspaceError, match="exists already"):
        checkout(root, "mail", first.version, tmp_path / "again")
    with pytest.raises(NotFound, match="no dataset d-none"):
        checkout(root, "mail", "d-none", tmp_path / "nothing")


def test_a_dataset_that_the_pipeline_did_not_build_is_refused(tmp_path: Path) -> None:
    init(tmp_path)
    init(tmp_path)
    manifest = Manifest(
        version="d-0",
        task="mail",
        labels=("a", "b"),
        watermark="",
        parent=None,
        split_rule="",
        files={},
        counts={},
        label_counts={},
        left_out={},
    )
    with pytest.raises(WorkspaceError, match="run the pipeline's build stage"):
        commit_dataset(tmp_path, "mail", manifest)
    assert versions(tmp_path, "mail") == []
