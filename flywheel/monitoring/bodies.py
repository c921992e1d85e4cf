"""Bodies of requests, read up to a bound and never further."""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flywheel.errors import TooLarge
from flywheel.monitoring.problems import problem_of


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The whole body. Raises TooLarge, having read no more than that, when it has more bytes."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most_bytes:
            raise TooLarge(f"the body is larger than {most_bytes} bytes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class BoundedBodies:
    """ASGI middleware for apps whose routes read bodies whole: they get none that is larger."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body first, and answer 413 in the app's place when it is too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(Request(scope, receive), self._most_bytes)
        except TooLarge as error:
            await problem_of(error)(scope, receive, send)
            return
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_again, send)
