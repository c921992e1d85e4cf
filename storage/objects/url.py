"""Blobs in an object store by URL, through fsspec: S3, Google Cloud Storage, Azure.

Who may read and write is decided by each store's own chain of credentials: its environment
variables, its file below the home folder, or the role of the machine. None passes through here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel.errors import ArtefactError, ArtefactStoreError, ConfigurationError

# Scheme → the package that speaks to it.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}


class UrlBlobs:
    """``storage.objects.blobs.Blobs`` below a URL. An object store shows an object whole or not."""

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError where the package for the URL's scheme is not installed."""
        self._url = url
        scheme = url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            # What was listed once tells nothing of what others have put since.
            files, self._root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            package = PACKAGES.get(scheme, scheme)
            raise ConfigurationError(
                "artefacts.url",
                f"{scheme}:// needs the package {package}, which is not installed ({error})",
            ) from error
        except ValueError as error:
            raise ConfigurationError("artefacts.url", f"{url!r} cannot be used: {error}") from error
        self._files: Any = files

    @property
    def place(self) -> str:
        """The URL."""
        return self._url

    def size(self, key: str) -> int | None:
        """The bytes under a key, or None."""
        with self._reached():
            try:
                return int(self._files.info(self._at(key))["size"])
            except FileNotFoundError:
                return None

    def write(self, key: str, data: bytes) -> None:
        """Send it in one request."""
        with self._reached():
            self._files.pipe_file(self._at(key), data)

    def write_file(self, key: str, file: Path) -> None:
        """Send it in parts where it is large, which show as one object at the end."""
        if self.size(key) == file.stat().st_size:
            return
        with self._reached():
            self._files.put_file(str(file), self._at(key))

    def read(self, key: str) -> bytes:
        """What is kept."""
        with self._reached(key):
            return bytes(self._files.cat_file(self._at(key)))

    def copy(self, key: str, file: Path) -> None:
        """Downloaded."""
        with self._reached(key):
            self._files.get_file(self._at(key), str(file))

    def remove(self, key: str) -> None:
        """Keep it no longer."""
        with self._reached():
            try:
                self._files.rm_file(self._at(key))
            except FileNotFoundError:
                return

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _reached(self, key: str = "") -> Iterator[None]:
        """Whatever way a store fails in (connection, rights, no such bucket), it is not usable."""
        try:
            yield
        except FileNotFoundError as error:
            if key:
                raise ArtefactError(f"{self._url} has no {key}") from error
            raise ArtefactStoreError(f"{self._url} is not there: {error}") from error
        except Exception as error:
            raise ArtefactStoreError(
                f"{self._url} cannot be used ({type(error).__name__}): {error}"
            ) from error
