"""The releases of this machine: those that were made here, and those fetched by their address.

Either lies at its id below ``Layout.releases``: a folder, or a link to what the cache holds. So do
the bases of adapters below ``Layout.bases``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import msgspec

from flywheel.contracts.artefacts import Address, Artefacts, FolderList
from flywheel.contracts.layout import Layout
from flywheel.contracts.model_folder import RELEASE_FILE, BaseReference, ModelDescription
from flywheel.contracts.release import KeptRelease, Release
from flywheel.errors import ArtefactError
from flywheel.registry.release_folder import release_folder, verify_release


class HeldRelease:
    """A release on this machine, with its base, which stays there until it is let go."""

    def __init__(self, path: Path, holds: ExitStack) -> None:
        self.path = path
        self._holds = holds

    def release(self) -> None:
        """It may be evicted from now on. Twice is once."""
        self._holds.close()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class ReleaseFolders:
    """Thread-safe. ``kept`` says where a release is kept, or None where nothing says so."""

    def __init__(
        self, layout: Layout, artefacts: Artefacts, kept: Callable[[str], KeptRelease | None]
    ) -> None:
        self._layout = layout
        self._artefacts = artefacts
        self._kept = kept

    def publish(self, release: Release) -> Release:
        """Put a release that was assembled here, and its base; its record with their addresses.

        Raises ArtefactStoreError when the store cannot be reached.
        """
        folder = self._folder(release.release)
        base = _base_of(folder)
        return msgspec.structs.replace(
            release,
            address=str(self._artefacts.put(folder)),
            base_address=base and str(self._artefacts.put(self._layout.bases / base.id)),
        )

    def hold(self, release: str) -> HeldRelease:
        """A release's folder, fetched where it was not made here; its base lies there too.

        Raises ArtefactError when it is neither here nor kept, and ArtefactStoreError, which is
        retryable, when the store cannot be reached.
        """
        folder = self._folder(release)
        with ExitStack() as holds:
            if not _made_here(folder):
                kept = self._kept(release)
                address = kept.address if kept else None
                self._fetch(f"release {release}", address, folder, holds)
            base = _base_of(folder)
            if base is not None and not _made_here(self._layout.bases / base.id):
                kept, what = self._kept(release), f"base {base.id} of {release}"
                address = kept.base_address if kept else None
                self._fetch(what, address, self._layout.bases / base.id, holds)
            return HeldRelease(folder, holds.pop_all())

    def verified(self, release: str) -> ModelDescription:
        """What a release serves, once all that decides its answers is what was released.

        Raises as ``hold``, and ArtefactError, naming the file, for one that was changed.
        """
        with self.hold(release):
            return verify_release(self._layout.state, release)

    def read(self, release: str, name: str) -> bytes:
        """One small file of a release, which is not fetched whole for it. Raises as ``hold``."""
        folder = self._folder(release)
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            kept = None if _made_here(folder) else self._kept(release)
            if kept is None:
                raise ArtefactError(f"{folder / name} cannot be read: {error}") from error
        listed = FolderList.decoded(self._artefacts.read(Address.parse(kept.address)))
        if name not in listed.files:
            raise ArtefactError(f"release {release} has no {name}")
        return self._artefacts.read(Address("file", listed.files[name].sha256))

    def has(self, release: Release) -> bool:
        """Whether the store has a release, and its base, where its record says. Raises
        ArtefactStoreError when it cannot be reached."""
        if release.address is None:
            return False
        addresses = filter(None, (release.address, release.base_address))
        return all(self._artefacts.has(Address.parse(address)) for address in addresses)

    def made_here(self, release: str) -> bool:
        """Whether it lies here of itself, not by a link to the cache."""
        return _made_here(self._folder(release))

    def here(self) -> list[str]:
        """The ids of releases that lie on this machine."""
        folders = sorted(self._layout.releases.glob("[!.]*"))
        return [folder.name for folder in folders if folder.is_dir()]

    def _folder(self, release: str) -> Path:
        return release_folder(self._layout.state, release)

    def _fetch(self, what: str, address: str | None, link: Path, holds: ExitStack) -> None:
        if address is None:
            raise ArtefactError(
                f"{what} is not in {link.parent}, and no address says where it is kept: it was "
                "made by an earlier version, in another workspace"
            )
        held = self._artefacts.fetch(Address.parse(address))
        holds.callback(held.release)
        _link(link, held.path)


class _Based(msgspec.Struct):
    base: BaseReference | None = None


def _base_of(folder: Path) -> BaseReference | None:
    """The base of an adapter, as release.json names it; whoever loads it verifies the rest."""
    try:
        return msgspec.json.decode((folder / RELEASE_FILE).read_bytes(), type=_Based).base
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtefactError(f"{folder / RELEASE_FILE} cannot be read: {error}") from error


def _made_here(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink()


def _link(link: Path, target: Path) -> None:
    """Have ``link`` lead to ``target``, in one step; a workspace may be moved with both."""
    link.parent.mkdir(parents=True, exist_ok=True)
    leads_to = os.path.relpath(target, link.parent)
    if link.is_symlink() and os.readlink(link) == leads_to:
        return
    with tempfile.TemporaryDirectory(prefix=".link-", dir=link.parent) as made:
        new = Path(made) / link.name
        new.symlink_to(leads_to, target_is_directory=True)
        os.replace(new, link)
