"""No dataset version and no model is committed without its bytes in cache and remote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dataset_workspace import build, files, git, make, objects, repro

from flywheel.datasets.versions import versions
from flywheel.datasets.workspace import (
    checkout,
    commit_dataset,
    commit_results,
    init,
    lacking_bytes,
    mend,
    prune,
)
from flywheel.errors import Conflict, NotFound, WorkspaceError
from flywheel.ops.kept_bytes import missing_bytes
from flywheel.settings import load_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning"),
]

TESTS = Path(__file__).parents[1]
# A user may mount file systems in a namespace of their own, where the system lets them have one.
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
CACHE, REMOTE = ".dvc/cache", ".flywheel/dvc-remote"


def can_mount(place: Path) -> bool:
    command = [*_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(place)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("place", [".dvc/cache", ".flywheel/dvc-remote"])
def test_a_full_disk_fails_the_turn_and_room_mends_it(tmp_path: Path, place: str) -> None:
    if not can_mount(tmp_path):
        pytest.skip("this system gives users no mount namespace")
    root = tmp_path / "ws"
    init(root)
    done = subprocess.run(
        [*_NAMESPACE, sys.executable, TESTS / "faults/full_disk_process.py", root, place],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    first, second, third = found["said"]
    for said in (first, second):
        assert "No space left on device" in said
        assert "MiB free" in said
    assert third == "done"
    assert found["tagged_while_full"] == 0
    assert (found["tagged"], found["lacking"], found["same"]) == (1, 0, True)
    assert [line.partition(" (")[0].partition(" d-")[0] for line in found["log"]] == [
        "a turn",
        "mail: dataset",
        "Make the workspace",
    ]


def one_turn(root: Path, count: int, parent: str | None = None) -> str:
    manifest = build(root, count, parent)
    commit_dataset(root, "mail", manifest)
    for stage in ("train", "compress", "evaluate"):
        repro(root, stage)
    commit_results(root, "mail", "a turn")
    return manifest.version


@pytest.fixture
def turned(tmp_path: Path) -> tuple[Path, str]:
    root = make(tmp_path / "ws")
    return root, one_turn(root, 30)


def test_the_remote_has_models_too(turned: tuple[Path, str]) -> None:
    root, _ = turned
    assert lacking_bytes(root) == []
    assert set(objects(root / REMOTE)) == set(objects(root / CACHE))


@pytest.mark.parametrize("damage", ["gone", "cut", "cut and protected", "folder list gone"])
@pytest.mark.parametrize("store", [CACHE, REMOTE])
def test_a_turn_mends_what_a_store_lost(
    turned: tuple[Path, str], tmp_path: Path, store: str, damage: str
) -> None:
    """DVC takes any file of the right name that is read-only for the object."""
    root, version = turned
    before = objects(root / store)
    for path in (root / store / "files").rglob("*"):
        if path.is_file() and ("list" not in damage or path.suffix == ".dir"):
            held = path.read_bytes()
            path.unlink()
            if "cut" in damage:
                path.write_bytes(held[: len(held) // 2])
            if "protected" in damage:
                path.chmod(0o444)
    commit_results(root, "mail", "again")
    assert objects(root / store) == before
    assert lacking_bytes(root) == []
    checkout(root, "mail", version, tmp_path / "out")
    assert files(tmp_path / "out") == files(root / "data/mail")


def test_a_version_that_is_tagged_without_bytes_gets_them_in_a_later_turn(
    turned: tuple[Path, str], tmp_path: Path
) -> None:
    """As the code before left one: tagged, in neither store. The workspace still has it."""
    root, version = turned
    shutil.rmtree(root / CACHE)
    shutil.rmtree(root / REMOTE)
    lacking = lacking_bytes(root)
    assert [getattr(one.what, "version", one.what) for one in lacking] == [
        version,
        "models/mail/trained",
        "models/mail/compressed",
    ]
    assert all(one.gone == one.files for one in lacking)
    with pytest.raises(WorkspaceError, match="neither in DVC's cache nor in its remote"):
        checkout(root, "mail", version, tmp_path / "nothing")
    assert one_turn(root, 30, "d-other") == version
    assert lacking_bytes(root) == []
    assert len(versions(root)) == 1
    checkout(root, "mail", version, tmp_path / "out")


def test_an_older_version_that_was_never_pushed_is_pushed(turned: tuple[Path, str]) -> None:
    """A turn that was resumed after kill -9, say, and another one since."""
    root, version = turned
    shutil.rmtree(root / REMOTE)
    second = build(root, 50, version)
    commit_dataset(root, "mail", second)
    assert [one.what.version for one in lacking_bytes(root) if not isinstance(one.what, str)] == [
        version
    ]
    mend(root)
    assert lacking_bytes(root) == []


def test_what_is_nowhere_is_named(turned: tuple[Path, str], tmp_path: Path) -> None:
    root, version = turned
    commit_dataset(root, "mail", build(root, 50, version))
    first = next(one for one in versions(root) if one.version == version)
    for store in (CACHE, REMOTE):
        (root / store / "files/md5" / first.dvc_hash[:2] / first.dvc_hash[2:]).unlink()
    mend(root)
    (lacking,) = lacking_bytes(root)
    assert lacking.what == first
    assert lacking.gone == lacking.files == 1
    with pytest.raises(WorkspaceError, match="neither in DVC's cache nor in its remote"):
        checkout(root, "mail", version, tmp_path / "out")


def test_a_version_pruned_on_purpose_says_so_and_is_no_fault(
    turned: tuple[Path, str], tmp_path: Path
) -> None:
    root, first = turned
    second = one_turn(root, 50, first)
    held = objects(root / REMOTE)
    with pytest.raises(Conflict, match="the workspace holds"):
        prune(root, "mail", second, "ada: no")
    gone = prune(root, "mail", first, "ada: asked to forget")
    assert gone >= 1
    assert len(objects(root / REMOTE)) == len(held) - gone
    assert lacking_bytes(root) == []
    with pytest.raises(NotFound, match="pruned: ada: asked to forget"):
        checkout(root, "mail", first, tmp_path / "out")
    checkout(root, "mail", second, tmp_path / "second")
    assert "pruned/mail/" in git(root, "tag", "-l")

    assert one_turn(root, 30, second) == first
    checkout(root, "mail", first, tmp_path / "out")
    assert [one.pruned for one in versions(root)] == [None, None]


def test_doctor_names_what_has_no_bytes_and_what_was_pruned(turned: tuple[Path, str]) -> None:
    root, first = turned
    (root / "flywheel.toml").write_text(
        '[tasks.mail]\nlabels = ["a", "b"]\n[tasks.mail.training]\nbase_model = "base"\n'
    )
    settings = load_settings(root, {})
    second = one_turn(root, 50, first)
    third = one_turn(root, 70, second)
    recorded = {"mail": [first, second, third]}
    assert missing_bytes(settings, recorded) == ([], [])

    prune(root, "mail", first, "ada: asked to forget")
    made = next(one for one in versions(root) if one.version == second)
    for store in (CACHE, REMOTE):
        (root / store / "files/md5" / made.dvc_hash[:2] / made.dvc_hash[2:]).unlink()
    problems, advice = missing_bytes(settings, {"mail": [*recorded["mail"], "d-lost"]})
    assert advice == [
        f"dataset {first} of mail has no bytes any more: pruned by ada: asked to forget"
    ]
    assert problems[0].startswith(f"dataset {second} of mail: 1 of its files are in no store")
    assert f"datasets prune {second} --task mail" in problems[0]
    assert problems[1:] == [f"dataset d-lost of mail has no tag in {root}: its commit is gone"]
