"""Artefacts over blobs and a cache: files under their digest, a folder by the list of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flywheel.contracts.artefacts import Address, FolderList, Held, list_folder
from flywheel.contracts.ids import utc_now
from flywheel.contracts.model_folder import FileDigest, digest
from flywheel.errors import ArtefactError
from storage.objects.again import note_again
from storage.objects.blobs import Blobs
from storage.objects.cache import Cache


class StoredArtefacts:
    """``contracts.artefacts.Artefacts``.

    A folder's list is written last, so a folder is there once all its files are.
    """

    def __init__(self, blobs: Blobs, cache: Cache) -> None:
        self._blobs = blobs
        self._cache = cache

    def put(self, path: Path) -> Address:
        """File by file, a folder's list last."""
        if not path.is_dir():
            described = digest(path)
            self._put_file(path, described)
            return Address("file", described.sha256, described.bytes)
        listed = list_folder(path)
        for name, file in listed.files.items():
            self._put_file(path / name, file)
        address = listed.address
        self._blobs.write(key_of(address), listed.encoded())
        return address

    def put_bytes(self, data: bytes) -> Address:
        """Keep them as a file."""
        address = Address("file", hashlib.sha256(data).hexdigest(), len(data))
        key = key_of(address)
        there = self._blobs.size(key) == len(data)
        if there:
            note_again(self._blobs, address.sha256, utc_now())
        # It may have been removed just before that was noted.
        if not there or self._blobs.size(key) != len(data):
            self._blobs.write(key, data)
        return address

    def has(self, address: Address) -> bool:
        """Whether the file, or the folder's list, is there."""
        return self._blobs.size(key_of(address)) is not None

    def read(self, address: Address) -> bytes:
        """A file's bytes; of a folder those of its list."""
        data = self._blobs.read(key_of(address))
        if hashlib.sha256(data).hexdigest() != address.sha256:
            raise self._damaged(key_of(address))
        return data

    def fetch(self, address: Address) -> Held:
        """Take it from the cache, or into it."""
        if address.kind == "file":
            size = address.size or self._blobs.size(key_of(address)) or 0
            expected = FileDigest(bytes=size, sha256=address.sha256)
            return self._cache.hold(address.sha256, size, lambda path: self._copy(expected, path))
        return self._cache.hold(
            address.sha256, address.size or 0, lambda path: self._fill(address, path)
        )

    def _fill(self, address: Address, folder: Path) -> None:
        listed = FolderList.decoded(self.read(address))
        for name, file in listed.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._copy(file, target)

    def _copy(self, expected: FileDigest, target: Path) -> None:
        key = file_key(expected.sha256)
        self._blobs.copy(key, target)
        if digest(target).sha256 != expected.sha256:
            raise self._damaged(key)

    def _put_file(self, path: Path, expected: FileDigest) -> None:
        key = file_key(expected.sha256)
        before = path.stat()
        self._blobs.write_file(key, path)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            self._blobs.remove(key)
            raise ArtefactError(f"{path} was written to while it was put: put it once more")

    def _damaged(self, key: str) -> ArtefactError:
        return ArtefactError(
            f"{self._blobs.place}: {key} is not what its digest says; remove it there and put it "
            "anew"
        )


def key_of(address: Address) -> str:
    """Where a store has an artefact: a file, or a folder's list."""
    if address.kind == "file":
        return file_key(address.sha256)
    return f"folders/{address.sha256[:2]}/{address.sha256}.json"


def file_key(sha256: str) -> str:
    """Where a store has a file."""
    return f"files/{sha256[:2]}/{sha256}"
