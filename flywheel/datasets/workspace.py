"""The workspace in git and DVC: every dataset version has a commit, a tag and its bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flywheel.contracts.dataset_folder import PARTS, Manifest, read_manifest
from flywheel.contracts.layout import (
    CONFIG_FILE,
    DVC_LOCK_FILE,
    DVC_REMOTE,
    PARAMS_FILE,
    STATE_FOLDER,
    Layout,
)
from flywheel.datasets import git
from flywheel.datasets.dvc_repository import environment, opened
from flywheel.datasets.remote import LOCAL, settle, write
from flywheel.datasets.stored import (
    Stores,
    discard,
    failures,
    keep,
    keep_in_cache,
    stored_before,
)
from flywheel.datasets.versions import (
    DatasetCommit,
    committed_outputs,
    find,
    locked_hash,
    mark_pruned,
    tag_name,
    unmark_pruned,
    versions,
)
from flywheel.errors import Conflict, NotFound, WorkspaceError

if TYPE_CHECKING:
    from dvc.repo import Repo

# What a dataset's commit holds. DVC's own .gitignore files keep its outputs out of git.
_COMMITTED = (
    ".gitignore",
    ".dvc",
    ".dvcignore",
    CONFIG_FILE,
    "dvc.yaml",
    DVC_LOCK_FILE,
    PARAMS_FILE,
    "data",
    "models",
    "evaluation",
)


@dataclass(frozen=True)
class Lacking:
    """A dataset version, or the path of a model, of which the remote lacks ``files``; ``gone`` of
    them are not in the cache either."""

    what: DatasetCommit | str
    files: int
    gone: int


_PARTS = {f"{part}.jsonl" for part in PARTS}
_STAGES = ("build", "train", "compress", "evaluate")


def init(root: Path) -> None:
    """Make ``root`` a git repository with DVC and a remote of its own; what is there stays.

    Raises WorkspaceError when git is missing or refuses.
    """
    from dvc.repo import Repo

    layout = Layout(root)
    root.mkdir(parents=True, exist_ok=True)
    if not layout.git.exists():
        git.git(root, "init", "-q", "-b", "main")
    _ignore_and_keep(root)
    if not layout.dvc.is_dir():
        with environment(root):
            Repo.init(str(root)).close()
        with opened(root) as repo:
            write(repo, LOCAL, str(root.resolve() / DVC_REMOTE))
    git.commit_paths(root, "Make the workspace", _COMMITTED)


def settle_remote(root: Path, url: str = "") -> None:
    """Point DVC's remote where the settings say; an empty ``url`` is the workspace's own folder.
    The bytes of every version that is kept come along. Raises WorkspaceError when they cannot."""
    settle(root, url, {one.dvc_hash for one in versions(root) if one.pruned is None})


def keep_stage(root: Path, stage: str) -> None:
    """See to it that DVC's cache holds what a stage that is done has left. Raises WorkspaceError,
    with the reason, when it cannot."""
    with opened(root) as repo:
        keep_in_cache(repo, stage)


def commit_dataset(root: Path, task: str, manifest: Manifest) -> DatasetCommit:
    """Commit and tag the dataset that the pipeline has just built, once cache and remote hold it.

    A version that has its tag and its bytes keeps them; one without bytes gets these, which hold
    the same samples. Raises WorkspaceError when the pipeline has not built it, or its bytes cannot
    be kept.
    """
    lock = (root / DVC_LOCK_FILE).read_text("utf-8") if (root / DVC_LOCK_FILE).is_file() else ""
    dvc_hash = locked_hash(lock, task)
    if dvc_hash is None:
        raise WorkspaceError(
            f"{root / DVC_LOCK_FILE} records no dataset of {task!r}: run the pipeline's build stage"
        )
    if read_manifest(Layout(root).dataset(task)).version != manifest.version:
        raise WorkspaceError(
            f"{Layout(root).dataset(task)} holds another version than the one given"
        )
    with opened(root) as repo:
        keep(repo, [f"build@{task}"])
        known = find(root, task, manifest.version)
        if known is not None and known.pruned is None and _whole(repo, known.dvc_hash):
            return known
    counts = (
        f"{manifest.expert_labels} expert, {manifest.seed_labels} seed, "
        f"{manifest.auto_labels} automatic labels"
    )
    git.commit_paths(
        root,
        f"{task}: dataset {manifest.version} ({counts}, {manifest.count('holdout')} held out)\n\n"
        f"Parent: {manifest.parent or 'none'}\nWatermark: {manifest.watermark}\nDVC: {dvc_hash}",
        _COMMITTED,
    )
    git.tag(root, tag_name(task, manifest.version), f"Dataset {manifest.version}")
    if known is not None and known.pruned is not None:
        unmark_pruned(root, known)
    return DatasetCommit(task, manifest.version, git.git(root, "rev-parse", "HEAD"), dvc_hash)


def discard_built(root: Path, task: str) -> None:
    """Take away the dataset that the pipeline has built and nobody has committed: from the
    workspace, cache and remote. What a version that is kept has stays. Raises WorkspaceError when
    a store cannot be read."""
    lock = (root / DVC_LOCK_FILE).read_text("utf-8") if (root / DVC_LOCK_FILE).is_file() else ""
    dvc_hash = locked_hash(lock, task)
    with opened(root) as repo:
        stores = Stores.of(repo)
        with failures(stores):
            kept = {one.dvc_hash for one in versions(root) if one.pruned is None}
            needed = {name for one in kept for name in stores.objects(one) or ()}
            for name in (stores.objects(dvc_hash) or ()) if dvc_hash else ():
                if name not in needed:
                    discard(stores.remote, name)
                    discard(stores.cache, name)
    shutil.rmtree(Layout(root).dataset(task), ignore_errors=True)


def commit_results(root: Path, task: str, message: str) -> str:
    """Commit what later stages of the pipeline recorded (dvc.lock, metrics), once cache and remote
    hold the models that it names. Returns the commit. Raises WorkspaceError when they cannot."""
    with opened(root) as repo:
        keep(repo, [f"{stage}@{task}" for stage in _STAGES])
    git.commit_paths(root, message, _COMMITTED)
    return git.git(root, "rev-parse", "HEAD")


def mend(root: Path) -> None:
    """Push what the last commit and older versions name and the remote lacks, as far as the cache
    has it. Raises WorkspaceError when the remote refuses."""
    with opened(root) as repo:
        stores = Stores.of(repo)
        with failures(stores):
            for _, name in _named(repo, root):
                stores.fill(stores.remote, stores.cache, stores.objects(name) or ())


def lacking_bytes(root: Path) -> list[Lacking]:
    """What the last commit and every version that was not pruned name, and the remote lacks.
    Raises WorkspaceError when a store cannot be read."""
    missing = []
    with opened(root) as repo:
        stores = Stores.of(repo)
        with failures(stores):
            for what, name in _named(repo, root):
                names = stores.objects(name) or [name]
                if lacking := stores.lacking(stores.remote, names):
                    gone = stores.lacking(stores.cache, lacking)
                    missing.append(Lacking(what, files=len(lacking), gone=len(gone)))
    return missing


def _whole(repo: Repo, name: str) -> bool:
    stores = Stores.of(repo)
    with failures(stores):
        return not stores.lacking(stores.remote, stores.objects(name) or [name])


def _named(repo: Repo, root: Path) -> list[tuple[DatasetCommit | str, str]]:
    """What the remote has to hold: a version or the path of a model, and its object."""
    datasets = [(one, one.dvc_hash) for one in versions(root) if one.pruned is None]
    known = {name for _, name in datasets}
    models = {out: name for out, name in committed_outputs(root).items() if name not in known}
    if not models:
        return [*datasets]  # before its first turn a workspace has no parameters for the pipeline
    kept = {str(out) for out in repo.index.outs if out.use_cache}
    return [*datasets, *((out, name) for out, name in models.items() if out in kept)]


def checkout(root: Path, task: str, version: str, to: Path) -> Manifest:
    """Write the bytes of a dataset version to the new folder ``to``; the workspace stays as it is.

    They come from DVC's cache, or from the remote when the cache lacks them, and are verified
    against the manifest. Raises NotFound for a version without a tag or one that was pruned,
    WorkspaceError when ``to`` exists or the bytes are gone.
    """
    commit = _kept(root, task, version)
    if to.exists():
        raise WorkspaceError(f"{to} exists already: name a folder that does not")
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".checkout-", dir=to.parent) as scratch:
        out = Path(scratch) / "data"
        with opened(root) as repo:
            stores = Stores.of(repo)
            with failures(stores):
                if lacking := stores.write(commit.dvc_hash, out):
                    raise WorkspaceError(
                        f"the bytes of dataset {version} are neither in DVC's cache nor in its "
                        f"remote: {', '.join(lacking)}; `flywheel doctor` looks at all versions"
                    )
        manifest = read_manifest(out)
        shutil.move(out, to)
    return manifest


def prune(root: Path, task: str, version: str, reason: str) -> int:
    """Take the bytes of a dataset version from cache and remote, all that no other version and
    nothing in the workspace needs, and note why. Returns how many files went.

    Raises NotFound for a version without a tag, Conflict for the one that the workspace holds.
    """
    commit = _kept(root, task, version)
    with opened(root) as repo:
        stores = Stores.of(repo)
        current = {
            out.hash_info.value for out in repo.index.outs if out.use_cache and out.hash_info
        }
        if commit.dvc_hash in current:
            raise Conflict(f"{version} is the dataset that the workspace holds: it stays")
        others = {one.dvc_hash for one in versions(root) if one.pruned is None and one != commit}
        with failures(stores):
            needed = {name for one in others | current for name in stores.objects(one) or ()}
            going = [n for n in stores.objects(commit.dvc_hash) or () if n not in needed]
            mark_pruned(root, commit, reason)
            for name in going:
                discard(stores.remote, name)
                discard(stores.cache, name)
    return len(going)


def versions_with(root: Path, task: str, among: Callable[[set[str]], object]) -> list[str]:
    """The versions of a task's dataset whose bytes are kept and of whose samples ``among`` says
    so, oldest first. Raises WorkspaceError when a store cannot be read."""
    found = []
    with opened(root) as repo:
        stores = Stores.of(repo)
        with failures(stores):
            for one in versions(root, task):
                listed = stores.listing(one.dvc_hash) if one.pruned is None else None
                parts = [name for path, name in (listed or {}).items() if path in _PARTS]
                if any(among(_samples(stores, name)) for name in parts):
                    found.append(one.version)
    return found


def _samples(stores: Stores, name: str) -> set[str]:
    lines = (stores.read(name) or b"").splitlines()
    return {msgspec.json.decode(line, type=_OfSample).sample_id for line in lines}


class _OfSample(msgspec.Struct):
    sample_id: str


def sweep_cache(root: Path, before: float) -> int:
    """Take from DVC's cache and remote the objects that were stored before a moment (seconds since
    1970) and that nothing names: no version that is kept, not the last commit, nothing in the
    workspace. Returns how many went. Raises WorkspaceError when a store cannot be read."""
    with opened(root) as repo:
        stores = Stores.of(repo)
        with failures(stores):
            named = {one.dvc_hash for one in versions(root) if one.pruned is None}
            named |= set(committed_outputs(root).values())
            named |= {
                out.hash_info.value for out in repo.index.outs if out.use_cache and out.hash_info
            }
            needed = {name for one in named for name in stores.objects(one) or (one,)}
            going = [
                (store, name)
                for store in (stores.remote, stores.cache)
                for name in [*store.all()]
                if name not in needed and stored_before(store, name, before)
            ]
            for store, name in going:
                discard(store, name)
    return len(going)


def _kept(root: Path, task: str, version: str) -> DatasetCommit:
    commit = find(root, task, version)
    if commit is None:
        raise NotFound(f"no dataset {version} of task {task!r}: `git tag -l 'dataset/*'` lists all")
    if commit.pruned is not None:
        raise NotFound(f"the bytes of dataset {version} were pruned: {commit.pruned}")
    return commit


def _ignore_and_keep(root: Path) -> None:
    """Git ignores what runs here, and keeps what a dataset's commit holds: whatever a user tells
    git to ignore everywhere, DVC refuses or overlooks its own files where git ignores them."""
    path = root / ".gitignore"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    kept = [f"!/{name}" for name in _COMMITTED]
    missing = [line for line in kept if line not in lines]
    ignored = [line for line in (f"/{STATE_FOLDER}/",) if line not in lines]
    if missing or ignored:
        # What comes later in the file counts: of a folder that is kept something may be ignored.
        path.write_text("\n".join([*missing, *lines, *ignored]) + "\n", "utf-8")
