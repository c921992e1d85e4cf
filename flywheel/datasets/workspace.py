"""The workspace in git and DVC: every dataset version has a commit, a tag and its bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.contracts.dataset_folder import Manifest, read_manifest
from flywheel.errors import NotFound, WorkspaceError

REMOTE = "local"
REMOTE_FOLDER = ".flywheel/dvc-remote"
LOCK_FILE = "dvc.lock"
# What a dataset's commit holds. DVC's own .gitignore files keep its outputs out of git.
_COMMITTED = (
    ".gitignore",
    ".dvc",
    ".dvcignore",
    "flywheel.toml",
    "dvc.yaml",
    LOCK_FILE,
    "params.yaml",
    "data",
    "models",
    "evaluation",
)
_IDENTITY = ("-c", "user.name=Flywheel", "-c", "user.email=flywheel@localhost")


@dataclass(frozen=True)
class DatasetCommit:
    """Where git and DVC hold a dataset version."""

    version: str
    git_commit: str
    dvc_hash: str
    tag: str


def tag_name(task: str, version: str) -> str:
    """The git tag of a dataset version."""
    return f"dataset/{task}/{version}"


def data_path(task: str) -> str:
    """Where a task's dataset lies, from the workspace's root."""
    return f"data/{task}"


def init(root: Path) -> None:
    """Make ``root`` a git repository with DVC and a remote of its own; what is there stays.

    Raises WorkspaceError when git is missing or refuses.
    """
    import logging

    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    root.mkdir(parents=True, exist_ok=True)
    if not (root / ".git").exists():
        _git(root, "init", "-q", "-b", "main")
    _ignore(root, "/.flywheel/")
    if not (root / ".dvc").is_dir():
        Repo.init(str(root)).close()
    with Repo(str(root)) as repo, repo.config.edit("repo") as config:
        config["core"].setdefault("analytics", False)
        config["core"].setdefault("remote", REMOTE)
        if config["core"]["remote"] == REMOTE:
            config["remote"].setdefault(REMOTE, {"url": f"../{REMOTE_FOLDER}"})
    (root / REMOTE_FOLDER).mkdir(parents=True, exist_ok=True)
    _commit(root, "Make the workspace")


def commit_dataset(root: Path, task: str, manifest: Manifest) -> DatasetCommit:
    """Push the dataset that the pipeline has just built to the remote, commit it and tag it.

    A version that has its tag already is left as it is. Raises WorkspaceError when the pipeline
    has not built it.
    """
    tag = tag_name(task, manifest.version)
    known = _find(root, task, manifest.version)
    if known is not None:
        return known
    lock = (root / LOCK_FILE).read_text("utf-8") if (root / LOCK_FILE).is_file() else ""
    dvc_hash = _locked_hash(lock, task)
    if dvc_hash is None:
        raise WorkspaceError(
            f"{root / LOCK_FILE} records no dataset of {task!r}: run the pipeline's build stage"
        )
    if read_manifest(root / data_path(task)).version != manifest.version:
        raise WorkspaceError(f"{root / data_path(task)} holds another version than the one given")
    _push(root, task)
    counts = (
        f"{manifest.expert_labels} expert, {manifest.seed_labels} seed, "
        f"{manifest.auto_labels} automatic labels"
    )
    _commit(
        root,
        f"{task}: dataset {manifest.version} ({counts}, {manifest.count('holdout')} held out)\n\n"
        f"Parent: {manifest.parent or 'none'}\nWatermark: {manifest.watermark}\nDVC: {dvc_hash}",
    )
    _git(root, *_identity(root), "tag", "-a", "-m", f"Dataset {manifest.version}", tag)
    commit = _git(root, "rev-parse", "HEAD")
    return DatasetCommit(version=manifest.version, git_commit=commit, dvc_hash=dvc_hash, tag=tag)


def commit_results(root: Path, message: str) -> str:
    """Commit what later stages of the pipeline recorded (dvc.lock, metrics). Returns the commit."""
    _commit(root, message)
    return _git(root, "rev-parse", "HEAD")


def versions(root: Path, task: str) -> list[DatasetCommit]:
    """Every tagged dataset version of a task, oldest first."""
    pattern = f"refs/tags/{tag_name(task, '*')}"
    listed = _git(
        root, "for-each-ref", "--sort=creatordate", "--format=%(refname:strip=2)", pattern
    )
    found = (_find(root, task, tag.rpartition("/")[2]) for tag in listed.splitlines())
    return [commit for commit in found if commit is not None]


def checkout(root: Path, task: str, version: str, to: Path) -> Manifest:
    """Write the bytes of a dataset version to the new folder ``to``; the workspace stays as it is.

    They come from DVC's cache, or from the remote when the cache lacks them, and are verified
    against the manifest. Raises NotFound for a version without a tag, WorkspaceError when ``to``
    exists or the bytes are gone.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if _find(root, task, version) is None:
        raise NotFound(f"no dataset {version} of task {task!r}: `git tag -l 'dataset/*'` lists all")
    if to.exists():
        raise WorkspaceError(f"{to} exists already: name a folder that does not")
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".checkout-", dir=to.parent) as scratch:
        out = Path(scratch) / "data"
        try:
            Repo.get(str(root), data_path(task), out=str(out), rev=tag_name(task, version))
        except (DvcException, OSError) as error:
            raise WorkspaceError(
                f"the bytes of dataset {version} are neither in DVC's cache nor in its remote: "
                f"{error}"
            ) from error
        manifest = read_manifest(out)
        shutil.move(out, to)
    return manifest


def _find(root: Path, task: str, version: str) -> DatasetCommit | None:
    tag = tag_name(task, version)
    commit = _try_git(root, "rev-parse", "-q", "--verify", f"refs/tags/{tag}^{{commit}}")
    if commit is None:
        return None
    dvc_hash = _locked_hash(_git(root, "show", f"{tag}:{LOCK_FILE}"), task) or ""
    return DatasetCommit(version=version, git_commit=commit, dvc_hash=dvc_hash, tag=tag)


def _locked_hash(lock: str, task: str) -> str | None:
    """The hash that dvc.lock records for a task's dataset."""
    import yaml

    stages: dict[str, Any] = (yaml.safe_load(lock) or {}).get("stages") or {}
    for stage in stages.values():
        for out in stage.get("outs", []):
            if out["path"] == data_path(task):
                return str(out["md5"])
    return None


def _push(root: Path, task: str) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            repo.push(targets=[str(root.resolve() / data_path(task))])
    except DvcException as error:
        raise WorkspaceError(f"DVC could not push the dataset of {task!r}: {error}") from error


def _commit(root: Path, message: str) -> None:
    """Commit the workspace's own files; nothing else that is staged or lies around."""
    present = [name for name in _COMMITTED if (root / name).exists()]
    _git(root, "add", "-A", "--", *present)
    staged = _try_git(root, "diff", "--cached", "--quiet", "--", *present) is None
    if staged:
        # A folder of which everything is ignored is no path that git knows.
        known = [p for p in present if _git(root, "ls-files", "--", p) or _deleted(root, p)]
        _git(root, *_identity(root), "commit", "-q", "--no-verify", "-m", message, "--", *known)


def _deleted(root: Path, path: str) -> bool:
    """Whether the last commit has something there that this one will not."""
    return bool(_try_git(root, "ls-tree", "--name-only", "HEAD", "--", path))


def _identity(root: Path) -> Iterable[str]:
    signed = ("-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false")
    known = _try_git(root, "config", "user.email") and _try_git(root, "config", "user.name")
    return signed if known else (*_IDENTITY, *signed)


def _ignore(root: Path, line: str) -> None:
    path = root / ".gitignore"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    if line not in lines:
        path.write_text("\n".join([*lines, line]) + "\n", "utf-8")


def _git(root: Path, *arguments: str) -> str:
    done = _run_git(root, arguments)
    if done.returncode:
        raise WorkspaceError(
            f"git {' '.join(a for a in arguments if a != '-q')} failed in {root}: "
            f"{done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout.strip()


def _try_git(root: Path, *arguments: str) -> str | None:
    done = _run_git(root, arguments)
    return None if done.returncode else done.stdout.strip()


def _run_git(root: Path, arguments: Iterable[str]) -> subprocess.CompletedProcess[str]:
    # Variables of an enclosing git process (a hook, say) would point git at its repository.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    environment["GIT_TERMINAL_PROMPT"] = "0"
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    except FileNotFoundError:
        raise WorkspaceError("git is not installed: dataset versions need it") from None
    except subprocess.TimeoutExpired:
        raise WorkspaceError(f"git did not answer within two minutes in {root}") from None
