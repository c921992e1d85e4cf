"""Dataset versions in git and DVC: committed, tagged, and given back byte for byte."""

import shutil
from pathlib import Path

import pytest
from dataset_workspace import build, files, git, make, repro

from flywheel.contracts.dataset_folder import Manifest
from flywheel.datasets.versions import versions
from flywheel.datasets.workspace import checkout, commit_dataset, init
from flywheel.errors import NotFound, WorkspaceError
from flywheel.turn.params import write_params

# DVC's own dependency warns of its future; DVC then skips what it was asked to push.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


def test_each_version_is_committed_tagged_and_given_back(tmp_path: Path) -> None:
    root = make(tmp_path / "workspace")
    (root / "private.txt").write_text("not the workspace's")
    first = build(root, 40, None)
    one = commit_dataset(root, "mail", first)
    before = files(root / "data/mail")
    second = build(root, 60, first.version)
    two = commit_dataset(root, "mail", second)

    assert one.git_commit != two.git_commit
    assert one.dvc_hash.endswith(".dir")
    assert versions(root, "mail") == [one, two]
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


def test_what_a_person_tells_git_for_their_own_work_changes_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    for name in ("prepare-commit-msg", "commit-msg", "pre-commit", "reference-transaction"):
        (home / "hooks" / name).write_text("#!/bin/sh\nexit 1\n")
        (home / "hooks" / name).chmod(0o755)
    (home / "ignored").write_text("*.lock\n*.yaml\n*.toml\n.dvc\ndata/\nmodels\n")
    (home / ".gitconfig").write_text(
        "[user]\n name = Ada\n email = ada@example.org\n"
        f"[core]\n excludesFile = {home}/ignored\n hooksPath = {home}/hooks\n"
        " autocrlf = true\n safecrlf = true\n"
        "[commit]\n gpgSign = true\n[tag]\n gpgSign = true\n forceSignAnnotated = true\n"
        "[gpg]\n program = /bin/false\n[color]\n ui = always\n[column]\n ui = always\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    root = make(tmp_path / "workspace")
    (root / "flywheel.toml").write_bytes(b"# edited elsewhere\r\n")
    manifest = build(root, 40, None)
    commit = commit_dataset(root, "mail", manifest)
    assert versions(root, "mail") == [commit]
    kept = git(root, "ls-files").split()
    assert {"dvc.lock", "dvc.yaml", ".dvc/config", "flywheel.toml"} <= set(kept)
    assert git(root, "log", "-1", "--format=%an").strip() == "Ada"
    assert checkout(root, "mail", manifest.version, tmp_path / "again") == manifest


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


def test_a_changed_label_is_a_changed_input_whatever_number_it_looks_like(tmp_path: Path) -> None:
    root = make(tmp_path / "workspace")
    (root / "dvc.yaml").write_text(
        "stages:\n  build:\n    foreach: ${tasks}\n    do:\n      cmd: date +%N > data-${key}\n"
        '      params: ["tasks.${key}.labels"]\n      outs: [data-mail]\n'
    )
    built = []
    for labels in (["1e5", "b"], ["1e5", "b"], ["10e4", "b"], ["on", "b"], ["true", "b"]):
        write_params(root, {"mail": {"labels": labels}})
        repro(root, "build")
        built.append((root / "data-mail").read_bytes())
    assert built[0] == built[1]
    assert len(set(built)) == 4
