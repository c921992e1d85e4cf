"""What a model server loads: releases by the addresses that the splits carry."""

from __future__ import annotations

import threading

from flywheel.contracts.artefacts import Artefacts
from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.layout import Layout
from flywheel.contracts.release import KeptRelease
from flywheel.processes.engines import Engine
from flywheel.registry.release_folders import HeldRelease, ReleaseFolders
from flywheel.serving.engine import Classifier, Generator


class FetchedReleases:
    """Thread-safe. A release stays in the cache from its loading until it is closed."""

    def __init__(self, layout: Layout, artefacts: Artefacts, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._kept: dict[str, KeptRelease] = {}
        self._held: dict[str, list[HeldRelease]] = {}
        self._folders = ReleaseFolders(layout, artefacts, self._kept.get)

    def update(self, event: RolloutChanged) -> None:
        """Learn where the releases of a split are kept."""
        self._kept.update({kept.release: kept for kept in event.kept})

    def load(self, release: str) -> Classifier | Generator:
        """``serving.engine.Loader``: fetched where it is not there, then loaded."""
        held = self._folders.hold(release)
        try:
            served = self._engine.load(release, held.path)
        except BaseException:
            held.release()
            raise
        with self._lock:
            self._held.setdefault(release, []).append(held)
        return served

    def size(self, release: str) -> int:
        """The bytes of the files of a release that is loaded."""
        with self._lock:
            held = self._held.get(release, [])
            folder = held[-1].path if held else None
        if folder is None:
            return 0
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    def closed(self, release: str) -> None:
        """One loading of a release has been closed."""
        with self._lock:
            held = self._held.get(release, [])
            first = held.pop(0) if held else None
        if first is not None:
            first.release()
