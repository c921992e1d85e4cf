"""Dataset versions as git's tags name them: which there are, and which were pruned on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.contracts.layout import DVC_LOCK_FILE, data_path
from flywheel.datasets import git

_DATASETS = "dataset"
_PRUNED = "pruned"


@dataclass(frozen=True)
class DatasetCommit:
    """Where git and DVC hold a dataset version. ``pruned`` says by whom and why its bytes were
    taken away; None while they are kept."""

    task: str
    version: str
    git_commit: str
    dvc_hash: str
    pruned: str | None = None

    @property
    def tag(self) -> str:
        """Its git tag."""
        return tag_name(self.task, self.version)


def tag_name(task: str, version: str) -> str:
    """The git tag of a dataset version."""
    return f"{_DATASETS}/{task}/{version}"


def versions(root: Path, task: str | None = None) -> list[DatasetCommit]:
    """Every tagged dataset version of a task, or of all, oldest first."""
    chosen = f"refs/tags/{_DATASETS}/{task or '*'}/*"
    rows = _tags(root, chosen, "%(refname:strip=2)%09%(*objectname)")
    pruned = _pruned(root)
    names = [name for name, _ in rows]
    locks = git.blobs(root, [f"refs/tags/{name}:{DVC_LOCK_FILE}" for name in names])
    commits = []
    for (name, commit), lock in zip(rows, locks, strict=True):
        _, of_task, version = name.split("/", 2)
        dvc_hash = locked_hash((lock or b"").decode("utf-8", "replace"), of_task) or ""
        commits.append(DatasetCommit(of_task, version, commit, dvc_hash, pruned.get(name)))
    return commits


def find(root: Path, task: str, version: str) -> DatasetCommit | None:
    """One version, if it has its tag."""
    return next((one for one in versions(root, task) if one.version == version), None)


def pruned(root: Path, task: str) -> dict[str, str]:
    """Version → by whom and why its bytes were taken away."""
    start = f"{_DATASETS}/{task}/"
    return {name.removeprefix(start): why for name, why in _pruned(root).items() if start in name}


def committed_outputs(root: Path) -> dict[str, str]:
    """Path → object of every output that the last commit's dvc.lock names."""
    (lock,) = git.blobs(root, [f"HEAD:{DVC_LOCK_FILE}"])
    return _outputs((lock or b"").decode("utf-8", "replace"))


def mark_pruned(root: Path, commit: DatasetCommit, reason: str) -> None:
    """Note that a version's bytes are about to be taken away, and why."""
    git.tag(root, f"{_PRUNED}/{commit.task}/{commit.version}", reason, commit.git_commit)


def unmark_pruned(root: Path, commit: DatasetCommit) -> None:
    """Note that a version has its bytes again."""
    git.git(root, "tag", "-d", f"{_PRUNED}/{commit.task}/{commit.version}")


def locked_hash(lock: str, task: str) -> str | None:
    """The hash that dvc.lock records for a task's dataset."""
    return _outputs(lock).get(data_path(task))


def _outputs(lock: str) -> dict[str, str]:
    from dvc.utils.serialize import parse_yaml

    stages: dict[str, Any] = parse_yaml(lock, DVC_LOCK_FILE).get("stages") or {}
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {out["path"]: str(out["md5"]) for out in outs}


def _pruned(root: Path) -> dict[str, str]:
    """Tag of a version → why it was pruned."""
    rows = _tags(root, f"refs/tags/{_PRUNED}", "%(refname:strip=3)%09%(contents:subject)")
    return {f"{_DATASETS}/{name}": reason for name, reason in rows}


def _tags(root: Path, chosen: str, form: str) -> list[tuple[str, str]]:
    listed = git.git(root, "for-each-ref", "--sort=creatordate", f"--format={form}", chosen)
    rows = (line.partition("\t") for line in listed.splitlines())
    return [(name, rest) for name, _, rest in rows]
