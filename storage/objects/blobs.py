"""What a store of artefacts must do: keep bytes under a key, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Blobs(Protocol):
    """Bytes by key, such as "files/ab/abcd…". Every method raises ArtefactStoreError when the place
    cannot be reached."""

    @property
    def place(self) -> str:
        """Where it is, for people to read."""
        ...

    def size(self, key: str) -> int | None:
        """The bytes under a key; None where nothing is."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Keep ``data``; a reader sees all of it or what was there before."""
        ...

    def write_file(self, key: str, file: Path) -> None:
        """Keep what a file holds, likewise; the file is not written any more."""
        ...

    def read(self, key: str) -> bytes:
        """What is kept. Raises ArtefactError where nothing is."""
        ...

    def copy(self, key: str, file: Path) -> None:
        """Write what is kept to ``file``, which is not there. Raises as ``read``."""
        ...

    def remove(self, key: str) -> None:
        """Keep it no longer; nothing happens where nothing is."""
        ...
