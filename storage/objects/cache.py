"""What was fetched, kept on this machine up to a size; what somebody uses stays.

An entry is used while its lock is held, shared, so a process that dies gives up what it used. The
one who downloads it holds a second lock; whoever comes meanwhile waits and finds it there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from flywheel.errors import ArtefactStoreError

_PART = ".part-"
_LOCKS = ".locks"


class HeldEntry:
    """``contracts.artefacts.Held``."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock: int | None = lock

    @property
    def path(self) -> Path:
        """Where the entry lies."""
        return self._path

    def release(self) -> None:
        """Give its lock back; twice is once."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> Path:
        return self._path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Cache:
    """A folder of entries, each a file or a folder of its own name. Processes may share it."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def hold(self, name: str, size: int, fill: Callable[[Path], None]) -> HeldEntry:
        """The entry ``name`` of ``size`` bytes, made by ``fill(path)`` where it is not there.

        It appears when ``fill`` has returned, and not at all where that raises.
        """
        entry = self._folder / name
        try:
            (self._folder / _LOCKS).mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._locked(f"{name}.use", fcntl.LOCK_SH)
            try:
                os.utime(lock)
                if not entry.exists():
                    self._make(name, entry, size, fill)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise ArtefactStoreError(
                f"cannot keep what is fetched in {self._folder}: {error.strerror or error}"
            ) from error
        return HeldEntry(entry, lock)

    def _make(self, name: str, entry: Path, size: int, fill: Callable[[Path], None]) -> None:
        lock = self._locked(f"{name}.fill", fcntl.LOCK_EX)
        try:
            if entry.exists():
                return
            part = self._folder / f"{_PART}{name}"
            _remove(part)
            self._make_room(size)
            try:
                fill(part)
                os.rename(part, entry)
            finally:
                _remove(part)
        finally:
            os.close(lock)

    def _make_room(self, size: int) -> None:
        """Evict what was used longest ago, until ``size`` more bytes fit, and what was left half
        made by a process that was killed."""
        entries = sorted(self._entries(), key=self._last_used)
        taken = sum(map(_size_of, entries)) + size
        for entry in entries:
            half_made = entry.name.startswith(_PART)
            if not half_made and taken <= self._most_bytes:
                continue
            with self._unused(entry.name.removeprefix(_PART)) as unused:
                if unused:
                    taken -= _size_of(entry)
                    gone = self._folder / f"{_PART}{entry.name.removeprefix(_PART)}"
                    if not half_made:
                        os.rename(entry, gone)
                    _remove(gone)

    def _entries(self) -> Iterator[Path]:
        return (path for path in self._folder.iterdir() if path.name != _LOCKS)

    def _last_used(self, entry: Path) -> float:
        try:
            return self._lock_file(f"{entry.name.removeprefix(_PART)}.use").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @contextmanager
    def _unused(self, name: str) -> Iterator[bool]:
        """Whether nobody uses an entry, nor begins to before the block ends."""
        try:
            lock = self._locked(f"{name}.use", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
            # Who makes an entry uses it: nobody holds the other lock either.
            self._lock_file(f"{name}.fill").unlink(missing_ok=True)
            self._lock_file(f"{name}.use").unlink(missing_ok=True)
        finally:
            os.close(lock)

    def _lock_file(self, name: str) -> Path:
        return self._folder / _LOCKS / name

    def _locked(self, name: str, how: int) -> int:
        """A descriptor that holds a lock. Raises BlockingIOError where another has it."""
        path = self._lock_file(name)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, how)
                # Eviction removes the files of locks: one that is gone excludes nobody.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), path.stat()):
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _size_of(entry: Path) -> int:
    with suppress(FileNotFoundError):  # another process evicted it
        if entry.is_file():
            return entry.stat().st_size
        return sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
    return 0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
