"""What a kill, or a full disk, leaves in a workspace: locks that nobody holds, files cut short."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from flywheel.contracts.layout import DVC_LOCK_FILE
from flywheel.datasets.git import git, try_git

_DVC_CONFIG = ".dvc/config"
# With core.hardlink_lock, DVC dates its lock so far ahead.
_HARDLINK_LIFE = timedelta(days=365).total_seconds()

_log = structlog.get_logger(__name__)


def clear(root: Path) -> list[str]:
    """Take away every lock of git and DVC whose holder is gone; returns what was taken away.

    Whoever holds a lock is older than it: a process that runs and is younger has only the number
    of the one that was killed, which in a container is the rule. What a living process may hold
    stays, and the tool's own message then says so.
    """
    removed = [*_git_locks(root), *_rwlock(root), *_hardlink_lock(root)]
    for path in removed:
        _log.warning("a lock was left by a process that is gone; it is taken away", path=path)
    return removed


def restore_cut_files(root: Path) -> list[str]:
    """Bring back DVC's own files that do not parse, as they were last committed; one that never
    was is taken away, and the next turn writes it anew. Returns their names."""
    broken = []
    if not _parses_as_config(root / _DVC_CONFIG):
        broken.append(_DVC_CONFIG)
    if not _parses_as_lock(root / DVC_LOCK_FILE):
        broken.append(DVC_LOCK_FILE)
    for name in broken:
        _log.warning("a file was cut short; its last committed state is back", path=name)
        (root / name).unlink()
        if try_git(root, "cat-file", "-e", f"HEAD:{name}") is not None:
            git(root, "restore", "--source=HEAD", "--", name)
    return broken


def _git_locks(root: Path) -> Iterator[str]:
    where = try_git(root, "rev-parse", "--absolute-git-dir")
    if where is None:
        return
    folder = Path(where)
    locks = [*folder.glob("*.lock"), *(folder / "refs").rglob("*.lock")]
    for lock in locks:
        made = _modified(lock)
        if made is not None and not _older_process(root, "git", made):
            lock.unlink(missing_ok=True)
            yield str(lock.relative_to(folder.parent))


def _rwlock(root: Path) -> Iterator[str]:
    """DVC's list of who reads and writes what: without it nothing is locked."""
    path = root / ".dvc" / "tmp" / "rwlock"
    written = _modified(path)
    if written is None:
        return
    import zc.lockfile

    try:
        # Who edits the list holds this one, which the system takes from a process that ends.
        guard = zc.lockfile.LockFile(str(path.with_name("rwlock.lock")))
    except (zc.lockfile.LockError, OSError):
        return
    try:
        held = _holders(path)
        if held is not None and all(_held_by(pid, written) for pid in held):
            return
        path.unlink(missing_ok=True)
        yield str(path.relative_to(root))
    finally:
        guard.close()


def _holders(path: Path) -> list[int] | None:
    """The processes that the list names; None when it is no list."""
    try:
        locks: Any = json.loads(path.read_text("utf-8"))
        writers = list(locks.get("write", {}).values())
        readers = [one for several in locks.get("read", {}).values() for one in several]
        return [int(holder["pid"]) for holder in (*writers, *readers)]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None


def _hardlink_lock(root: Path) -> Iterator[str]:
    """The lock of a repository with core.hardlink_lock, which names no process."""
    path = root / ".dvc" / "tmp" / "lock"
    expires = _modified(path)
    if expires is None or path.stat().st_nlink < 2:
        return  # the usual lock, which the system takes from a process that ends
    if not _older_process(root, "dvc", expires - _HARDLINK_LIFE):
        path.unlink(missing_ok=True)
        yield str(path.relative_to(root))


def _held_by(pid: int, since: float) -> bool:
    """Whether a process runs that may hold a lock written then. This one holds none now."""
    import psutil

    try:
        return pid != os.getpid() and bool(psutil.Process(pid).create_time() <= since)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _older_process(root: Path, tool: str, since: float) -> bool:
    """Whether a process of this tool runs in the workspace that is older than the lock."""
    import psutil

    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.create_time() > since:
                continue
            words = process.cmdline()
            if not any(tool in Path(word).name for word in words[:3]):
                continue
            if _within(root, [process.cwd(), *words]):
                return True
        except psutil.AccessDenied:
            return True
        except psutil.Error:
            continue
    return False


def _within(root: Path, paths: Iterable[str]) -> bool:
    home = root.resolve()
    return any(Path(path).is_absolute() and Path(path).is_relative_to(home) for path in paths)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _parses_as_config(path: Path) -> bool:
    from dvc.config import Config, ConfigError

    try:
        Config.validate(Config.load_file(str(path)))
    except FileNotFoundError:
        return True
    except ConfigError:
        return False
    return True


def _parses_as_lock(path: Path) -> bool:
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import load_yaml
    from voluptuous import Invalid

    if not path.exists():
        return True
    try:
        COMPILED_LOCKFILE_SCHEMA(load_yaml(str(path)))
    except (DvcException, Invalid, ValueError):
        return False
    return True
