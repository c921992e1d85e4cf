"""The databases that the review tests run on: in memory, and the real one on SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
from fastapi import FastAPI
from new_database import new_database
from review_memory_desk import MemoryDatabase

from flywheel.contracts.codec import decode
from flywheel.contracts.events import Event
from storage.database import Database


class ReviewDatabase(Protocol):
    def transaction(self) -> AbstractContextManager[Any]: ...

    def sent(self) -> list[Event]: ...


class StoredDatabase:
    """The real one, on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def transaction(self) -> AbstractContextManager[Any]:
        return self.database.transaction("console")

    def sent(self) -> list[Event]:
        rows = self.database.outbox_rows("console").unsent(100_000)
        return [decode(record.value, dict(record.headers)) for _, record in rows]


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[ReviewDatabase]:
    if kind == "memory":
        yield MemoryDatabase()
        return
    database = new_database(f"sqlite:///{folder / 'review.db'}")
    try:
        yield StoredDatabase(database)
    finally:
        database.dispose()


class Client:
    """Calls an app in this process, one event loop a call; a crash is a response, as in life."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def get(self, path: str, params: Any = None) -> httpx.Response:
        return asyncio.run(self._send("GET", path, params=params))

    def post(self, path: str, json: Any = None, content: str | None = None) -> httpx.Response:
        """Posts ``json``, or ``content`` that is JSON as it stands."""
        headers = {"Content-Type": "application/json"}
        body = {"json": json} if content is None else {"content": content, "headers": headers}
        return asyncio.run(self._send("POST", path, **body))

    async def _send(self, method: str, path: str, **parts: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **parts)
