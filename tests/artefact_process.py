"""Fetches or puts an artefact in a process of its own: STORE CACHE COMMAND ARGUMENT.

`put PATH` prints the address; `fetch ADDRESS` prints where it lies and holds it until its input
ends. The store's folder counts how often it was read, and can be slow (SLOW, in seconds).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from flywheel.contracts.artefacts import Address
from storage.objects import StoredArtefacts
from storage.objects.cache import Cache
from storage.objects.folder import FolderBlobs


class SlowBlobs(FolderBlobs):
    """Takes its time over each file, and notes every copy."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(folder)
        self._copies = folder / "copies.txt"
        self._seconds = seconds

    def write_file(self, key: str, file: Path) -> None:
        super().write_file(key, file)
        print("written", key, flush=True)
        time.sleep(self._seconds)

    def copy(self, key: str, file: Path) -> None:
        with self._copies.open("a") as copies:
            copies.write(f"{key}\n")
        super().copy(key, file)
        print("copied", key, flush=True)
        time.sleep(self._seconds)


def main(store: str, cache: str, command: str, argument: str) -> None:
    blobs = SlowBlobs(Path(store), float(os.environ.get("SLOW", "0")))
    artefacts = StoredArtefacts(
        blobs, Cache(Path(cache), int(os.environ.get("MOST", "1000000000")))
    )
    if command == "put":
        print("put", artefacts.put(Path(argument)), flush=True)
        return
    with artefacts.fetch(Address.parse(argument)) as path:
        print("held", path, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
