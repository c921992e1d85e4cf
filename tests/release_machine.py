"""A machine for tests: a workspace of its own, which shares a store of artefacts with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from registry_files import make_release

from flywheel.contracts.layout import Layout
from flywheel.contracts.release import KeptRelease, Release
from flywheel.registry.release_folders import ReleaseFolders
from storage.objects import StoredArtefacts
from storage.objects.cache import Cache
from storage.objects.folder import FolderBlobs


class Machine:
    """``known`` are the addresses that it learnt."""

    def __init__(self, root: Path, name: str, most_bytes: int = 10**9) -> None:
        self.layout = Layout(root / name)
        self.known: dict[str, KeptRelease] = {}
        cache = Cache(self.layout.artefact_cache, most_bytes)
        self.artefacts = StoredArtefacts(FolderBlobs(root / "store"), cache)
        self.folders = ReleaseFolders(self.layout, self.artefacts, self.known.get)

    def make(self, name: str = "one", **given: Any) -> Release:
        """A release that was made and put here."""
        return self.folders.publish(make_release(self.layout.state, name=name, **given))

    def learn(self, release: Release) -> str:
        """Its id, once this machine knows where it is kept."""
        assert release.kept is not None
        self.known[release.release] = release.kept
        return release.release

    @property
    def cached(self) -> list[str]:
        """What lies in its cache."""
        return [path.name for path in self.layout.artefact_cache.iterdir() if path.name != ".locks"]
