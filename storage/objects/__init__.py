"""Artefacts under their digest: in a folder, or in an object store by URL."""

from storage.objects.opening import artefacts_problem, open_artefacts, open_blobs
from storage.objects.store import StoredArtefacts

__all__ = ["StoredArtefacts", "artefacts_problem", "open_artefacts", "open_blobs"]
