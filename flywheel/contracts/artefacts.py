"""What is kept under its digest for every process to fetch: releases, bases, images.

Events and tables carry addresses; where the bytes lie is each machine's own matter.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Annotated, Literal, Protocol, Self

import msgspec

from flywheel.contracts.model_folder import FileDigest, digest
from flywheel.errors import ArtefactError

ArtefactKind = Literal["file", "folder"]
_PATTERN = r"^(file|folder):sha256:([0-9a-f]{64})(?::(0|[1-9][0-9]{0,17}))?\Z"
_address = re.compile(_PATTERN)
# An address as it stands in an event or a table.
AddressText = Annotated[str, msgspec.Meta(pattern=_PATTERN)]


@dataclass(frozen=True, slots=True)
class Address:
    """Names an artefact by its content; as text ``KIND:sha256:DIGEST:BYTES``.

    ``sha256`` is that of a file's bytes, or of a folder's list (``FolderList``). ``size`` is the
    bytes of all its files where it is known, and no part of what is named.
    """

    kind: ArtefactKind
    sha256: str
    size: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        known = "" if self.size is None else f":{self.size}"
        return f"{self.kind}:sha256:{self.sha256}{known}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address in ``text``. Raises ArtefactError for what is none."""
        matched = _address.match(text)
        if matched is None:
            raise ArtefactError(f"{text!r} is no address: such as folder:sha256:DIGEST:BYTES")
        kind: ArtefactKind = "file" if matched[1] == "file" else "folder"
        return cls(kind, matched[2], None if matched[3] is None else int(matched[3]))


class FolderList(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a folder, by their paths below it with slashes; its bytes are its address."""

    files: dict[str, FileDigest]
    format: int = 1

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.bytes for file in self.files.values())

    def encoded(self) -> bytes:
        """The one form that is hashed."""
        return msgspec.json.encode(self, order="sorted")

    @property
    def address(self) -> Address:
        """Where the folder is kept."""
        return Address("folder", hashlib.sha256(self.encoded()).hexdigest(), self.size)

    @classmethod
    def decoded(cls, raw: bytes) -> FolderList:
        """The list in ``raw``. Raises ArtefactError for one that could write outside a folder."""
        try:
            read = msgspec.json.decode(raw, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ArtefactError(f"the list of a folder's files cannot be read: {error}") from error
        if read.format != 1:
            raise ArtefactError(f"a folder's list is of format {read.format}: upgrade to read it")
        for name in read.files:
            path = PurePosixPath(name)
            if name != str(path) or path.is_absolute() or ".." in path.parts or not path.parts:
                raise ArtefactError(f"a folder's list names {name!r}, which no folder may hold")
        return read


def list_folder(folder: Path) -> FolderList:
    """Every file below ``folder``, hashed.

    Raises ArtefactError for an empty folder, and for links and whatever else is no plain file.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtefactError(f"{path} is no plain file: links cannot be kept under a digest")
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = digest(path)
    if not files:
        raise ArtefactError(f"{folder} has no files")
    return FolderList(files=files)


class Held(Protocol):
    """An artefact on this machine, which is not evicted before it is released."""

    @property
    def path(self) -> Path:
        """The file or folder; to be read, never written."""
        ...

    def release(self) -> None:
        """It may be evicted from now on. Twice is once."""
        ...

    def __enter__(self) -> Path: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Artefacts(Protocol):
    """Files and folders under their digest. Thread-safe, and safe among processes.

    Every method raises ArtefactStoreError, which is retryable, when the store cannot be reached.
    """

    def put(self, path: Path) -> Address:
        """Keep a file, or a folder with all its files, and return its address.

        It is visible whole or not at all; what is there already is not written again. Raises
        ArtefactError for what cannot be kept, or changes meanwhile.
        """
        ...

    def put_bytes(self, data: bytes) -> Address:
        """Keep ``data`` as a file and return its address."""
        ...

    def has(self, address: Address) -> bool:
        """Whether the whole artefact is there."""
        ...

    def read(self, address: Address) -> bytes:
        """A file's bytes, verified; for small ones. Raises ArtefactError when it is not there."""
        ...

    def fetch(self, address: Address) -> Held:
        """The artefact on this machine, verified before it appears.

        Several processes that fetch the same at once download it once. Raises ArtefactError when
        it is not there, or is not what its address says.
        """
        ...
