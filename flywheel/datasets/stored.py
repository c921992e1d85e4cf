"""Whether DVC's cache and remote hold the bytes that dvc.lock names, found by looking at them.

DVC reports a copy that failed, for want of room say, by a line in its log, and takes a file of the
right name for the object.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flywheel.datasets.dvc_repository import logged_errors
from flywheel.errors import FlywheelError, WorkspaceError

if TYPE_CHECKING:
    from dvc.repo import Repo

# The end of the name of an object that lists others.
FOLDER = ".dir"


@dataclass(frozen=True)
class Stores:
    """DVC's object stores of one workspace. Objects are named by DVC's hashes; a folder is an
    object that lists others."""

    cache: Any
    remote: Any

    @classmethod
    def of(cls, repo: Repo) -> Stores:
        """The cache and the default remote. Raises WorkspaceError without a usable remote."""
        from dvc.config import RemoteConfigError

        try:
            return cls(repo.cache.local, repo.cloud.get_remote_odb())
        except RemoteConfigError as error:
            # One with version_aware or worktree, mostly, which keeps files by their names.
            raise WorkspaceError(f"DVC has no remote that keeps files by hash: {error}") from error
        except ImportError as error:
            raise WorkspaceError(f"DVC lacks what its remote needs: {error}") from error

    def objects(self, name: str) -> list[str] | None:
        """An object and all that it lists; None when no store has the list."""
        if not name.endswith(FOLDER):
            return [name]
        listed = self.listing(name)
        return None if listed is None else [name, *dict.fromkeys(listed.values())]

    def listing(self, name: str) -> dict[str, str] | None:
        """Path within a folder → object; None when no store has the list whole."""
        for store in (self.cache, self.remote):
            try:
                with store.fs.open(store.oid_to_path(name), "rb") as file:
                    content: bytes = file.read()
            except OSError:
                continue
            if _md5(content).hexdigest() == name.removesuffix(FOLDER):
                return {row["relpath"]: row["md5"] for row in msgspec.json.decode(content)}
        return None

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None when no store has it."""
        for store in (self.cache, self.remote):
            with suppress(OSError), store.fs.open(store.oid_to_path(name), "rb") as file:
                return bytes(file.read())
        return None

    def lacking(self, store: Any, names: Iterable[str]) -> list[str]:
        """Those objects of which a store does not have all bytes."""
        return [name for name in names if not self._whole(store, name)]

    def fill(self, store: Any, source: Any, names: Iterable[str]) -> list[str]:
        """Copy the objects that ``store`` lacks and ``source`` has; returns what it lacks still.

        Lists come last, so that a list is there only with all that it lists. Raises what the
        store raises for a copy that fails.
        """
        missing = self.lacking(store, names)
        for name in sorted(missing, key=lambda name: name.endswith(FOLDER)):
            if self._whole(source, name):
                if is_folder(store):  # a copy by link would find the damaged file in its way
                    discard(store, name)
                store.add(source.oid_to_path(name), source.fs, name, check_exists=False)
        return self.lacking(store, missing)

    def write(self, name: str, to: Path) -> list[str]:
        """Write the files of a folder to ``to``; returns the paths of which no store has the
        bytes, and writes nothing if there are any."""
        listed = self.listing(name)
        if listed is None:
            return [name]
        stores = {path: self._find(one) for path, one in listed.items()}
        lacking = [path for path, store in stores.items() if store is None]
        for path, store in stores.items() if not lacking else ():
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            store.fs.get_file(store.oid_to_path(listed[path]), str(to / path))
        return lacking

    def _find(self, name: str) -> Any:
        return next((one for one in (self.cache, self.remote) if self._whole(one, name)), None)

    def _whole(self, store: Any, name: str) -> bool:
        return holds(store, name, None if store is self.cache else _size(self.cache, name))


def holds(store: Any, name: str, size: int | None = None) -> bool:
    """Whether a store holds an object whole: a store that is a folder is read and hashed, of any
    other the size is compared with ``size``, where both are known."""
    path = store.oid_to_path(name)
    if is_folder(store):
        try:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, _md5).hexdigest() == name.removesuffix(FOLDER)
        except OSError:
            return False
    try:
        stored = store.fs.info(path).get("size")
    except FileNotFoundError:
        return False
    return size is None or stored is None or stored == size


def is_folder(store: Any) -> bool:
    """Whether a store is a folder of this machine."""
    return bool(store.fs.protocol == "local")


def stored_before(store: Any, name: str, before: float) -> bool:
    """Whether an object was stored before a moment (seconds since 1970), as its store says; False
    where it does not."""
    try:
        known = store.fs.info(store.oid_to_path(name))
    except FileNotFoundError:
        return False
    moment = known.get("mtime", known.get("LastModified"))
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment
    return isinstance(seconds, int | float) and seconds < before


def discard(store: Any, name: str) -> None:
    """Take an object away, whole or not."""
    with suppress(FileNotFoundError):
        store.fs.remove(store.oid_to_path(name))


def keep(repo: Repo, stages: Sequence[str]) -> None:
    """See to it that cache and remote hold the outputs of these stages as dvc.lock names them.

    What the cache lacks is saved again from the workspace, or fetched; what the remote lacks is
    pushed. Raises WorkspaceError, with the reason that DVC logged, when bytes are missing after
    that.
    """
    stores = Stores.of(repo)
    with failures(stores) as errors:
        for stage in stages:
            for output, names in _keep_in_cache(repo, stores, stage, errors).items():
                lacking = stores.fill(stores.remote, stores.cache, names)
                if lacking:
                    raise _lack(stores, f"the remote lacks {output}", lacking, errors)


def keep_in_cache(repo: Repo, stage: str) -> None:
    """Do as ``keep`` does, for the cache alone: what has to hold once a stage is done."""
    stores = Stores.of(repo)
    with failures(stores) as errors:
        _keep_in_cache(repo, stores, stage, errors)


def outputs(repo: Repo, stage: str) -> dict[str, str]:
    """Path → object of what a stage left, as dvc.lock names it, without what git keeps."""
    return {
        str(out): out.hash_info.value
        for resolved in repo.stage.collect(stage)
        for out in resolved.outs
        if out.use_cache and out.hash_info
    }


def _keep_in_cache(
    repo: Repo, stores: Stores, stage: str, errors: Sequence[str]
) -> dict[str, list[str]]:
    """Output → its objects, all of which the cache holds now."""
    from dvc.exceptions import DvcException

    kept = {}
    for output, name in outputs(repo, stage).items():
        names = stores.objects(name) or [name]
        if lacking := stores.lacking(stores.cache, names):
            for damaged in lacking:
                discard(stores.cache, damaged)
            with suppress(DvcException):
                # Of an output that is no longer what dvc.lock names, the remote may have the bytes.
                repo.commit(stage, relink=False)
            names = stores.objects(name) or [name]
            if lacking := stores.fill(stores.cache, stores.remote, names):
                raise _lack(stores, f"DVC's cache lacks {output}", lacking, errors)
        kept[output] = names
    return kept


@contextmanager
def failures(stores: Stores) -> Iterator[list[str]]:
    """What DVC logs meanwhile; what a store raises becomes a WorkspaceError that says where the
    bytes should have gone."""
    from dvc.exceptions import DvcException

    with logged_errors() as errors:
        try:
            yield errors
        except (FlywheelError, DvcException):
            raise
        except Exception as error:  # a remote's plug-in raises errors of its own
            raise WorkspaceError(
                f"datasets and models cannot be kept ({type(error).__name__}: {error}); "
                f"{_room(stores)}"
            ) from error


def _lack(
    stores: Stores, lacks: str, names: Sequence[str], errors: Sequence[str]
) -> WorkspaceError:
    why = f" ({errors[-1]})" if errors else ""
    return WorkspaceError(
        f"{lacks}: {len(names)} of its files could not be stored{why}; {_room(stores)}"
    )


def _room(stores: Stores) -> str:
    """Where the bytes should go, and how much room is there."""
    places = []
    for called, store in (("cache", stores.cache), ("remote", stores.remote)):
        place = store.fs.unstrip_protocol(store.path)
        if is_folder(store):
            there = next(p for p in (Path(store.path), *Path(store.path).parents) if p.exists())
            place = f"{store.path}, {shutil.disk_usage(there).free / 2**20:.1f} MiB free"
        places.append(f"{called}: {place}")
    return "; ".join(places)


def _size(store: Any, name: str) -> int | None:
    try:
        return Path(store.oid_to_path(name)).stat().st_size
    except OSError:
        return None


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)
