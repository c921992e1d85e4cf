"""A release's place on a vLLM server, of ours or elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from flywheel.errors import FlywheelError
from flywheel.serving.vllm.client import VllmClient


class Server(Protocol):
    """A vLLM server, of ours or elsewhere, with one release or with a base and its adapters."""

    client: VllmClient

    def problem(self) -> str | None:
        """Why it answers no more, or None."""
        ...

    def stop(self) -> None:
        """Nobody needs it any more."""
        ...


class Lease:
    """A release's place on a server."""

    def __init__(
        self, server: Server, release: str, give_back: Callable[[], None] | None = None
    ) -> None:
        self.server, self.release = server, release
        self._give_back = give_back or server.stop
        self._adapter = self._closed = False
        self._lock = threading.Lock()

    def load(self, folder: Path) -> None:
        """Load the adapter in ``folder`` into the server, under the release's own name."""
        self.server.client.load_adapter(self.release, str(folder.resolve()))
        self._adapter = True

    def close(self) -> None:
        """Unload the adapter and give the server back, once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        # A server that is going away forgets the adapter anyway.
        with contextlib.suppress(FlywheelError):
            if self._adapter and self.server.problem() is None:
                self.server.client.unload_adapter(self.release)
        self._give_back()


class Elsewhere:
    """A server that somebody else runs: asked for its health now and then."""

    _EVERY_SECONDS = 2.0
    _PATIENCE = 3

    def __init__(self, url: str) -> None:
        self.client = VllmClient(url)
        self._asked, self._failures = time.monotonic(), 0

    def problem(self) -> str | None:
        """Why it is taken to be away, or None."""
        if time.monotonic() - self._asked >= self._EVERY_SECONDS:
            self._failures = 0 if self.client.healthy() else self._failures + 1
            self._asked = time.monotonic()
        return f"{self.client.url} is away" if self._failures >= self._PATIENCE else None

    def stop(self) -> None:
        """It is not ours to stop."""
        self.client.close()
