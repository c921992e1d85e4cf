"""Blobs in a folder: hard links where the disk allows them, so that no byte lies there twice."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flywheel.contracts.linked_files import link_or_copy
from flywheel.contracts.model_folder import digest
from flywheel.errors import ArtefactError, ArtefactStoreError

_PART = ".part-"
# So long nobody writes one file: what is older was left by a process that was killed.
_LEFT_SECONDS = 24 * 3600


class FolderBlobs:
    """``storage.objects.blobs.Blobs`` below one folder, which several machines may share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    def size(self, key: str) -> int | None:
        """The bytes under a key, or None."""
        try:
            return (self._folder / key).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._away(error) from error

    def write(self, key: str, data: bytes) -> None:
        """Written beside, then moved."""
        with self._part(key) as part:
            part.write_bytes(data)

    def write_file(self, key: str, file: Path) -> None:
        """Keep it by a hard link, where the disk allows it."""
        target = self._folder / key
        # Whatever lies there damaged is replaced.
        if target.exists() and (target.samefile(file) or digest(target) == digest(file)):
            return
        with self._part(key) as part:
            link_or_copy(file, part)

    def read(self, key: str) -> bytes:
        """What is kept."""
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            raise self._missing(key) from None
        except OSError as error:
            raise self._away(error) from error

    def copy(self, key: str, file: Path) -> None:
        """Copy by a hard link, where the disk allows it."""
        try:
            link_or_copy(self._folder / key, file)
        except FileNotFoundError:
            raise self._missing(key) from None
        except OSError as error:
            raise self._away(error) from error

    def remove(self, key: str) -> None:
        """Keep it no longer."""
        try:
            (self._folder / key).unlink(missing_ok=True)
        except OSError as error:
            raise self._away(error) from error

    @contextmanager
    def _part(self, key: str) -> Iterator[Path]:
        """A path to write to, which becomes the key's when the block ends well."""
        target = self._folder / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            with tempfile.TemporaryDirectory(prefix=_PART, dir=self._folder) as made:
                part = Path(made) / "blob"
                yield part
                _sync(part)
                os.replace(part, target)
            _sync(target.parent)
        except OSError as error:
            raise self._away(error) from error

    def _sweep(self) -> None:
        for left in self._folder.glob(f"{_PART}*"):
            if left.stat().st_mtime < time.time() - _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)

    def _missing(self, key: str) -> ArtefactError:
        return ArtefactError(f"{self.place} has no {key}")

    def _away(self, error: OSError) -> ArtefactStoreError:
        return ArtefactStoreError(f"artefacts in {self.place}: {error.strerror or error}")


def _sync(path: Path) -> None:
    """Have the disk hold what was written: an event may name it next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
