"""kill -9 of a turn anywhere between its build and its last commit: who resumes it leaves every
byte in cache and remote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dataset_turn_process import POINTS, turn, workspace
from dataset_workspace import files, git, objects

from flywheel.datasets.versions import versions
from flywheel.datasets.workspace import checkout, lacking_bytes, mend, settle_remote

pytestmark = [
    # Minutes together: .ci/run runs them after `make test`.
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning"),
]

TESTS = Path(__file__).parents[1]
CACHE, REMOTE = ".dvc/cache", ".flywheel/dvc-remote"


def killed(root: Path, point: str) -> None:
    done = subprocess.run(
        [sys.executable, TESTS / "faults/dataset_turn_process.py", root, point],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -9, done.stderr
    for left in root.glob("die-in-*"):
        left.unlink()


@pytest.mark.parametrize("point", POINTS)
def test_a_turn_that_was_killed_and_resumed_leaves_every_byte(tmp_path: Path, point: str) -> None:
    root = workspace(tmp_path / "ws")
    killed(root, point)
    before = objects(root / REMOTE) if (root / REMOTE).is_dir() else {}
    if point == "pushing":
        assert len(before) == 1
    # What a trainer does as it starts, and then the turn again, whose stages may be done.
    settle_remote(root)
    mend(root)
    version = turn(root)

    assert lacking_bytes(root) == []
    held = objects(root / REMOTE)
    assert held == objects(root / CACHE)
    assert held.keys() >= before.keys()
    (made,) = versions(root)
    assert made.version == version
    # From the remote alone, as after the loss of the machine.
    for path in sorted((root / CACHE / "files").rglob("*"), reverse=True):
        if path.is_file():
            path.unlink()
    checkout(root, "mail", version, tmp_path / "out")
    assert files(tmp_path / "out") == files(root / "data/mail")
    assert git(root, "status", "--porcelain", "--untracked-files=no") == ""


def test_a_turn_that_is_killed_again_and_again_comes_to_its_end(tmp_path: Path) -> None:
    root = workspace(tmp_path / "ws")
    for point in ("build", "built", "pushing", "pushed", "train", "pushing models"):
        killed(root, point)
    version = turn(root)
    assert [made.version for made in versions(root)] == [version]
    assert lacking_bytes(root) == []
    assert objects(root / REMOTE) == objects(root / CACHE)
