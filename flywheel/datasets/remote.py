"""Where DVC's remote of a workspace lies: as the settings say, else in the workspace itself."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from flywheel.contracts.layout import DVC_REMOTE
from flywheel.datasets.dvc_repository import opened
from flywheel.datasets.git import commit_paths
from flywheel.datasets.stored import FOLDER, Stores, discard, failures, is_folder
from flywheel.errors import WorkspaceError

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCAL = "local"
SET = "flywheel"
FORMER = "flywheel-former"
_CONFIG = ".dvc/config"

_log = structlog.get_logger(__name__)


def settle(root: Path, url: str, versions: Collection[str]) -> None:
    """Point DVC's default remote at ``url``, or at the workspace's own folder when that is empty,
    and bring the objects of these versions along, from the cache or from where the remote was.

    A default that a person gave DVC stays when ``url`` is empty. Until the bytes are there the old
    remote stays in force. A folder outside the workspace that a former release of this product
    chose by mistake loses what is brought from it; any other former remote keeps what it has.
    Raises WorkspaceError when a store cannot be read or written.
    """
    name = SET if url else LOCAL
    wanted = url or str(root.resolve() / DVC_REMOTE)
    with opened(root) as repo:
        noted = _noted(repo)
        if noted.default not in {None, LOCAL, SET, FORMER} and not url:
            return
        if noted.default == name and noted.urls.get(name) == wanted:
            return
        if url:
            _note(repo, wanted)
    with opened(root) as repo, opened(root, remote=name, remote_config={"url": wanted}) as anew:
        former = Stores.of(repo) if repo.config["core"].get("remote") else None
        stores = Stores.of(anew)
        if "://" in wanted and is_folder(stores.remote):
            # DVC would make a folder of that name.
            raise WorkspaceError(f"dvc_remote_url: DVC knows no remotes such as {wanted}")
        with failures(stores):
            brought = _bring(stores, former, versions)
            if former is not None and noted.outside:
                _take_away(former.remote, brought)
        write(repo, name, wanted)
    commit_paths(root, f"Keep datasets at {url or DVC_REMOTE}", [_CONFIG])
    _log.info("DVC's remote is set", remote=name, url=wanted, objects=len(brought))


def _note(repo: Repo, url: str) -> None:
    """Note the remote of the settings before it is in force: people give DVC their credentials for
    it by its name. One of another address stays the default under another name meanwhile."""
    with repo.config.edit("repo") as config:
        if config["core"].get("remote") == SET and SET in config["remote"]:
            config["remote"][FORMER] = {"url": config["remote"][SET]["url"]}
            config["core"]["remote"] = FORMER
        config["remote"].setdefault(SET, {})["url"] = url


def write(repo: Repo, name: str, url: str) -> None:
    """Name the default remote in DVC's configuration. A folder of the workspace is noted as seen
    from that file: DVC takes one that is given plainly as seen from the current folder."""
    from dvc.config_schema import RelPath

    inside = Path(url).is_absolute() and Path(url).is_relative_to(repo.root_dir)
    with repo.config.edit("repo") as config:
        config["core"].setdefault("analytics", False)
        config["core"]["remote"] = name
        config["remote"].pop(FORMER, None)
        config["remote"].setdefault(name, {})["url"] = RelPath(url) if inside else url


def outside(root: Path) -> str | None:
    """The folder outside the workspace that a former release took for the remote by mistake, while
    it is still in use."""
    with opened(root) as repo:
        return _noted(repo).outside


@dataclass(frozen=True)
class _Remotes:
    """The remotes in the repository's own configuration, folders as absolute paths."""

    default: str | None
    urls: dict[str, str]
    outside: str | None


def _noted(repo: Repo) -> _Remotes:
    from dvc.config_schema import RelPath

    config = repo.config.load_one("repo")
    urls = {name: options["url"] for name, options in config["remote"].items()}
    local = urls.get(LOCAL, "")
    # A person would have written an absolute path; that release wrote one from the wrong folder.
    mistaken = (
        isinstance(local, RelPath)
        and Path(local).parts[-2:] == Path(DVC_REMOTE).parts
        and Path(local) != Path(repo.root_dir) / DVC_REMOTE
        and config["core"].get("remote") == LOCAL
    )
    return _Remotes(config["core"].get("remote"), urls, str(local) if mistaken else None)


def _bring(stores: Stores, former: Stores | None, versions: Collection[str]) -> set[str]:
    """The objects of these versions that the new remote holds now."""
    held: set[str] = set()
    for version in versions:
        names = stores.objects(version) or (former and former.objects(version)) or [version]
        lacking = stores.fill(stores.remote, stores.cache, names)
        if lacking and former is not None:
            lacking = stores.fill(stores.remote, former.remote, lacking)
        held |= set(names) - set(lacking)
    return held


def _take_away(store: Any, names: set[str]) -> None:
    """Remove objects from the folder of a store, except those of another workspace's datasets,
    which may lie there as well."""
    folder = Path(store.path)
    try:
        lists = {path.parent.name + path.name: path for path in folder.glob(f"??/*{FOLDER}")}
        others = [path for name, path in lists.items() if name not in names]
        kept = {row["md5"] for path in others for row in msgspec.json.decode(path.read_bytes())}
        for name in names - kept:
            discard(store, name)
        _remove_empty(folder)
    except (OSError, msgspec.MsgspecError) as error:
        _log.warning(
            "bytes stay outside the workspace, where nothing reads them", reason=str(error)
        )


def _remove_empty(folder: Path) -> None:
    """Remove the empty folders of a store, up to the one that a former release had made."""
    for prefix in folder.glob("??"):
        with suppress(OSError):
            prefix.rmdir()
    remote = folder.parents[1]
    for parent in (folder, *(p for p in folder.parents if p.is_relative_to(remote.parent))):
        with suppress(OSError):
            parent.rmdir()
