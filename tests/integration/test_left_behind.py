"""What a killed process leaves in a workspace stops no turn; what a living one holds stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dataset_workspace import build, make

from flywheel.datasets import left_behind
from flywheel.datasets.workspace import commit_dataset, settle_remote
from flywheel.errors import WorkspaceError

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "ws")


@contextmanager
def living() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def entry(root: Path, pid: int, mode: str = "write") -> str:
    holder = {"pid": pid, "cmd": "/usr/bin/dvc repro"}
    paths = {str(root / "data/mail"): holder if mode == "write" else [holder]}
    return json.dumps({mode: paths})


@pytest.mark.parametrize(
    "left",
    ["", "{", '{"write": {"/x": ', "null", "[]", '"x"', '{"write": []}', '{"read": {"/x": 1}}',
     '{"write": {"/x": {"pid": "?", "cmd": ""}}}', "\x00" * 300],
)  # fmt: skip
def test_a_list_of_dvcs_locks_that_was_cut_stops_no_turn(root: Path, left: str) -> None:
    (root / ".dvc/tmp").mkdir(exist_ok=True)
    (root / ".dvc/tmp/rwlock").write_text(left)
    commit_dataset(root, "mail", build(root, 20))


@pytest.mark.parametrize("mode", ["write", "read"])
def test_a_lock_of_a_process_that_is_gone_whose_number_another_has(root: Path, mode: str) -> None:
    """The rule in a container, where numbers begin anew: who has it is younger than the lock."""
    path = root / ".dvc/tmp/rwlock"
    with living() as pid:
        for holder in (pid, os.getpid()):
            path.write_text(entry(root, holder, mode))
            os.utime(path, (time.time() - 3600,) * 2)
            commit_dataset(root, "mail", build(root, 20))


def test_a_lock_that_a_living_process_may_hold_stays_and_is_named(root: Path) -> None:
    with living() as pid:
        path = root / ".dvc/tmp/rwlock"
        path.write_text(entry(root, pid))
        os.utime(path, (time.time() + 60,) * 2)
        with pytest.raises(WorkspaceError, match=f"PID {pid}"):
            build(root, 20)


@pytest.mark.parametrize(
    "name", ["index.lock", "HEAD.lock", "config.lock", "refs/heads/main.lock", "packed-refs.lock",
             "refs/tags/dataset/mail/d-1.lock"],
)  # fmt: skip
def test_a_lock_of_git_that_a_kill_left_stops_no_turn(root: Path, name: str) -> None:
    lock = root / ".git" / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    commit_dataset(root, "mail", build(root, 20))
    assert not lock.exists()


def test_a_lock_that_a_living_git_holds_stays(root: Path) -> None:
    """A person's commit, whose editor is open."""
    (root / "note.txt").write_text("x")
    subprocess.run(["git", "add", "note.txt"], cwd=root, check=True)
    waits = root.parent / "opened"
    editor = f"sh -c 'touch {waits}; exec sleep 600'"
    git = subprocess.Popen(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "note.txt"],
        cwd=root,
        env={**os.environ, "GIT_EDITOR": editor},
        start_new_session=True,
    )
    try:
        while not waits.exists() and git.poll() is None:
            time.sleep(0.02)
        assert git.poll() is None
        assert (root / ".git/index.lock").exists()
        assert left_behind.clear(root) == []
        assert (root / ".git/index.lock").exists()
    finally:
        os.killpg(git.pid, signal.SIGKILL)
        git.wait()
    assert left_behind.clear(root) != []
    commit_dataset(root, "mail", build(root, 20))


_HOLD = """
import os, signal, sys
from dvc.repo import Repo
repo = Repo(sys.argv[1])
repo.lock.lock()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("hardlink", [False, True])
def test_dvcs_own_lock_after_kill_9_stops_no_turn(root: Path, hardlink: bool) -> None:
    """With core.hardlink_lock, for network file systems, the lock outlives its process a year."""
    if hardlink:
        config = root / ".dvc/config"
        config.write_text(config.read_text().replace("[core]", "[core]\n    hardlink_lock = true"))
    killed = subprocess.run([sys.executable, "-c", _HOLD, str(root)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert (root / ".dvc/tmp/lock").exists()
    commit_dataset(root, "mail", build(root, 20))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["dvc.lock", ".dvc/config"])
def test_a_file_of_dvcs_that_was_cut_stops_no_turn(root: Path, name: str, share: float) -> None:
    commit_dataset(root, "mail", build(root, 20))
    path = root / name
    held = path.read_bytes()
    path.write_bytes(held[: int(len(held) * share)])
    settle_remote(root)
    commit_dataset(root, "mail", build(root, 30))
    assert b"remote" in (root / ".dvc/config").read_bytes()
