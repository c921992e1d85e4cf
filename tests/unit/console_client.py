"""A console in this process with a story to tell, and a browser without pages that asks it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from fastapi import FastAPI

from flywheel.console.app import create_app
from storage.objects import open_artefacts

sys.path.append(str(Path(__file__).parents[1] / "browser"))
from console_places import vendored_assets
from console_seed import console_settings, opened, seed

KEY = "a-key-that-is-long"
PAGE = {"Accept": "text/html"}


class Client:
    """A browser without pages: keeps cookies, follows no redirect."""

    def __init__(self, app: FastAPI, base_url: str, peer: str = "127.0.0.1") -> None:
        self._transport = httpx.ASGITransport(app, client=(peer, 12345))
        self._base_url = base_url
        self._cookies = httpx.Cookies()
        self.app = app

    @property
    def cookie(self) -> str:
        """The session cookie, as a thief would send it."""
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def share_cookies(self, other: Client) -> None:
        """One browser for both: it tells hosts apart, and not their ports."""
        self._cookies = other._cookies

    def get(self, path: str, **more: object) -> httpx.Response:
        return asyncio.run(self._send("GET", path, **more))

    def post(self, path: str, **more: object) -> httpx.Response:
        return asyncio.run(self._send("POST", path, **more))

    async def _send(self, method: str, path: str, **more: object) -> httpx.Response:
        async with httpx.AsyncClient(
            transport=self._transport, base_url=self._base_url, cookies=self._cookies
        ) as http:
            answer = await http.request(method, path, **more)
            self._cookies.jar.clear()
            self._cookies.update(http.cookies)
            return answer


@cache
def story() -> bytes:
    """The bytes of a database with a story in it: told once, copied for every test."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "flywheel.db"
        opened(f"sqlite:///{path}", seed).dispose()
        return path.read_bytes()


@contextmanager
def console(
    tmp_path: Path, *keys: str, host: str = "127.0.0.1", metrics: str | None = None
) -> Iterator[Client]:
    if not (tmp_path / "flywheel.db").exists():
        (tmp_path / "flywheel.db").write_bytes(story())
    database = opened(f"sqlite:///{tmp_path / 'flywheel.db'}")
    try:
        settings = console_settings(
            tmp_path, console={"api_keys": keys}, monitoring={"metrics_key": metrics}
        )
        app = create_app(
            settings,
            partial(database.transaction, "console"),
            vendored_assets(),
            artefacts=open_artefacts(settings),
        )
        yield Client(app, f"http://{host}")
    finally:
        database.dispose()
