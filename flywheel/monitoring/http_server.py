"""One HTTP server process: takes its port or says why not, and ends cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from flywheel.errors import WorkspaceError
from flywheel.monitoring.connections import Connection, ConnectionLimits, Connections


class _Server(uvicorn.Server):
    """uvicorn's server, except that a clean end after SIGTERM exits with 0, and that it waits to be
    told to end: uvicorn's own looks ten times a second, in every process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    def end(self) -> None:
        """Have it end; may be called from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._told.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal; a second one cuts short what is in flight."""
        super().handle_exit(sig, frame)
        self.end()

    async def main_loop(self) -> None:
        """Serve until told to end."""
        self._loop = asyncio.get_running_loop()
        # Sets the headers of every answer; looks for what was told before there was a loop.
        if not await self.on_tick(0):
            await self._told.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Outside the main thread (in tests) there are no signals to take.
            with suppress(RuntimeError, ValueError):
                loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


class HttpServer:
    """Holds its port from construction on; ``run`` answers until SIGTERM or ``stop``.

    ``limits`` bound what clients may take. ``behind_proxy`` believes a proxy on this machine when
    it says who the client is and how it is connected; what tells callers apart must not.
    """

    def __init__(
        self,
        app: FastAPI,
        host: str,
        port: int,
        *,
        setting: str = "port",
        grace_seconds: float = 20.0,
        limits: ConnectionLimits | None = None,
        behind_proxy: bool = False,
    ) -> None:
        self._socket = _listen(host, port, setting)
        self._port = int(self._socket.getsockname()[1])
        limits = (limits or ConnectionLimits()).within_file_limit()
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=partial(Connection, connections=Connections(limits)),  # type: ignore[arg-type]
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=behind_proxy,
            timeout_keep_alive=math.ceil(limits.idle_seconds),
            timeout_graceful_shutdown=math.ceil(grace_seconds),
        )
        self._server = _Server(config)

    @property
    def port(self) -> int:
        """The port in use (asked for as 0, it is the one the system gave)."""
        return self._port

    @property
    def started(self) -> bool:
        """Whether requests are being answered."""
        return self._server.started

    def run(self) -> int:
        """Answer until told to end; what is in flight is finished first. 0 when all went well."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
        return 0 if self._server.started else 1

    def stop(self) -> None:
        """Ask ``run`` to end; may be called from any thread."""
        self._server.end()


def serve(app: FastAPI, host: str, port: int, *, setting: str = "port") -> int:
    """Run ``app`` until SIGTERM and return the exit code.

    ``setting`` names the key in flywheel.toml to change when the port is taken. Raises
    WorkspaceError when it is.
    """
    return HttpServer(app, host, port, setting=setting).run()


def _listen(host: str, port: int, setting: str) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise WorkspaceError(
            f"cannot listen on {host}:{port} ({error.strerror}): stop what holds the port, or set "
            f"another {setting} in flywheel.toml"
        ) from error
    return listening
