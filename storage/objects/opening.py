"""The artefacts of a workspace, by its settings."""

from __future__ import annotations

from pathlib import Path

from flywheel.contracts.ids import new_id
from flywheel.errors import ArtefactError, ConfigurationError
from flywheel.settings import FlywheelSettings
from storage.objects.blobs import Blobs
from storage.objects.cache import Cache
from storage.objects.folder import FolderBlobs
from storage.objects.store import StoredArtefacts
from storage.objects.url import UrlBlobs


def open_artefacts(settings: FlywheelSettings) -> StoredArtefacts:
    """What ``artefacts.url`` names. Nothing is reached before it is asked.

    Raises ConfigurationError, naming the key, where a package for it is missing.
    """
    cache = Cache(settings.layout.artefact_cache, int(settings.artefacts.cache_gb * 1e9))
    return StoredArtefacts(open_blobs(settings), cache)


def open_blobs(settings: FlywheelSettings) -> Blobs:
    """The store itself, without a cache. Raises as ``open_artefacts``."""
    url = settings.artefacts.url
    if "://" in url:
        return UrlBlobs(url)
    return FolderBlobs(Path(url) if url else settings.layout.artefacts)


def artefacts_problem(settings: FlywheelSettings) -> ConfigurationError | None:
    """Why artefacts cannot be written and read back as things are, or None; it tries to."""
    said = new_id().encode()
    try:
        blobs = open_blobs(settings)
        key = f"checks/{said.decode()}"
        blobs.write(key, said)
        kept = blobs.read(key)
        blobs.remove(key)
    except ConfigurationError as error:
        return error
    except ArtefactError as error:
        return ConfigurationError("artefacts.url", str(error), "check address, bucket and rights")
    if kept != said:
        return ConfigurationError("artefacts.url", f"{blobs.place} does not give back what it got")
    return None
