"""What one connection may take from a server: bytes of a head, seconds at every step, a place."""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from flywheel.monitoring.problems import MEDIA_TYPE, problem_document

_log = structlog.get_logger(__name__)
_LINGER_SECONDS = 2.0
# Requests that may wait on one connection while an earlier one is answered.
_MOST_PIPELINED = 16
# Where a connection stands: what comes next, and from whom.
_HEAD, _BODY, _ANSWER, _IDLE = range(4)
# Where a request's scope says whether its connection is closed.
_CLOSED = "flywheel.closed"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The bounds of every listener.

    ``head_seconds`` count from a request's begin (for the first one, from the connection's) to the
    end of its head, ``body_seconds`` from there to the end of its body, ``idle_seconds`` between
    requests, and ``write_seconds`` while a client does not read its answer. ``head_bytes`` bound a
    head, and apart from it what a chunked body has beside its content: trailers and extensions.
    """

    connections: int = 512
    head_bytes: int = 32 * 1024
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0

    def within_file_limit(self) -> ConnectionLimits:
        """The same with no more connections than half of the files this process may open."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return replace(self, connections=max(1, min(self.connections, files // 2)))


class Connections:
    """The open connections of one server, in one event loop.

    When all places are taken, a new connection gets the place of one that waits for its client: of
    the peer with most of those, the one that waits longest. So who holds many idle or half-sent
    connections loses them first, whatever their number. Requests being answered are left alone.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: set[Connection] = set()
        self._pause = min(1.0, *(seconds / 4 for seconds in _seconds(limits)))
        self._sweeping = False

    def admit(self, connection: Connection) -> bool:
        """Take a connection in, in another one's place if need be; False when there is none."""
        if len(self._open) >= self.limits.connections:
            given_up = longest_waiting(self._open)
            if given_up is None:
                return False
            self._open.discard(given_up)
            given_up.transport.abort()
        self._open.add(connection)
        if not self._sweeping:
            self._sweeping = True
            connection.loop.call_later(self._pause, self._sweep, connection.loop)
        return True

    def forget(self, connection: Connection) -> None:
        """A connection is closed."""
        self._open.discard(connection)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._open):
            connection.end_if_late(now)
        self._sweeping = bool(self._open)
        if self._sweeping:
            loop.call_later(self._pause, self._sweep, loop)


def longest_waiting(connections: Iterable[Connection]) -> Connection | None:
    """The connection that has to go first, or None when every one is being answered."""
    waiting = [one for one in connections if one.waiting_since is not None]
    if not waiting:
        return None
    held = Counter(one.peer for one in waiting)
    return min(waiting, key=lambda one: (-held[one.peer], one.waiting_since or 0.0))


class _Flow(FlowControl):
    """uvicorn's flow control that reads no more while whole requests wait for their turn."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Read on, unless there is enough to answer."""
        if not self._connection.pipeline:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's connection, bounded. ``waiting_since`` is None while a request is answered and its
    client reads what is written."""

    def __init__(self, *args: Any, connections: Connections, **more: Any) -> None:
        super().__init__(*args, **more)
        self._all = connections
        self._limits = connections.limits
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._beside_body = self._trailer_bytes = 0
        self._upgrades = False
        self._refused = False
        limits = connections.limits
        self._seconds = (limits.head_seconds, limits.body_seconds, 0.0, limits.idle_seconds)
        self._step = _HEAD
        self._late_at: float | None = None
        self._unread_at: float | None = None
        self.waiting_since: float | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Find a place, or say that there is none."""
        super().connection_made(transport)
        self.flow = _Flow(self)
        self.peer = self.client[0] if self.client else ""
        self.waiting_since = self.loop.time()
        self._late_at = self.waiting_since + self._limits.head_seconds
        if not self._all.admit(self):
            self._refused = True
            self._say(503, "unavailable", "every connection is in use", {"Retry-After": "1"})
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._all.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser no more of a head than its limit (of one that follows another request
        in the same packet, at most twice that)."""
        while data and not self._refused and not self.transport.is_closing():
            if self._in_body:
                piece, data = data, b""
                self._beside_body += len(piece)
            else:
                room = self._limits.head_bytes + 1 - self._head_bytes
                piece, data = data[:room], data[room:]
                self._head_bytes += len(piece)
            data = self._feed(piece) + data
            most = self._limits.head_bytes
            if self._head_bytes > most:
                self._refuse(431, "head-too-large", f"the head is larger than {most} bytes")
            elif max(self._beside_body, self._trailer_bytes) > most:
                detail = f"the body has more than {most} bytes of trailers or extensions"
                self._refuse(431, "trailers-too-large", detail)
        self._stepped()

    def _feed(self, piece: bytes) -> bytes:
        """Parse ``piece``; returns the rest of it that has to be parsed again."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            if self._upgrades:
                return self._without_upgrade() + piece[upgrade.args[0] :]
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        return b""

    def _without_upgrade(self) -> bytes:
        """The head just parsed as it would be had its client not offered another protocol, for a
        parser of its own: after an offer, the one that saw it takes the body for that protocol."""
        self._upgrades = self._in_head = False
        self._head_bytes = 0
        version = self.parser.get_http_version().encode()
        method = self.parser.get_method()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        kept = (name + b":" + value for name, value in self.headers if name != b"upgrade")
        return b"\r\n".join((method + b" " + self.url + b" HTTP/" + version, *kept, b"", b""))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head. One after the body, a trailer, is of use to no app: it is dropped."""
        if self._in_body:
            self._trailer_bytes += len(name) + len(value)
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there: the app is asked, and reads the body as it comes."""
        self._upgrades = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._upgrades:
            return
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise httptools.HttpParserError("more requests than may wait on one connection")
        self._in_head = False
        self._in_body = True
        self._head_bytes = 0
        self._beside_body = self._trailer_bytes = 0
        self.scope[_CLOSED] = self.transport.is_closing  # type: ignore[literal-required]
        super().on_headers_complete()
        cycle = self.cycle
        cycle.send_500_response = partial(_say_unfinished, cycle)  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        """Content of a body."""
        self._beside_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: from here on, time is ours and not the client's."""
        if self._upgrades:
            return
        self._in_body = False
        self._head_bytes = self._beside_body = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written."""
        super().on_response_complete()
        self._stepped()

    def pause_writing(self) -> None:
        """The client does not read what was written."""
        super().pause_writing()
        now = self.loop.time()
        self._unread_at = now + self._limits.write_seconds
        if self.waiting_since is None:
            self.waiting_since = now

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._unread_at = None
        if self._step == _ANSWER and not self._refused:
            self.waiting_since = None

    def send_400_response(self, msg: str) -> None:
        """Bytes that are no HTTP request."""
        self._refuse(400, "bad-request", msg)

    def end_if_late(self, now: float) -> None:
        """Close the connection if its client let a time pass."""
        if self._unread_at is not None and now >= self._unread_at:
            self.transport.abort()
        elif self._late_at is not None and now >= self._late_at:
            if self._in_head or self._awaits_body:
                self._refuse(408, "request-timeout", "the request did not come to its end in time")
            else:
                self.transport.abort()

    @property
    def _awaits_body(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and cycle.more_body

    @property
    def _answering(self) -> bool:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return bool(self.pipeline) or cycle.response_started or not cycle.more_body

    def _stepped(self) -> None:
        """Note who is waited for from now on. What comes within one step wins no time."""
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and self._in_head):
            step = _HEAD
        elif cycle.response_complete:
            step = _IDLE
        else:
            step = _BODY if cycle.more_body and not self.pipeline else _ANSWER
        if step == self._step or self._refused:
            return
        self._step = step
        if step == _ANSWER:
            self._late_at = None
            if self._unread_at is None:
                self.waiting_since = None
        else:
            self.waiting_since = self.loop.time()
            self._late_at = self.waiting_since + self._seconds[step]

    def _refuse(self, status: int, code: str, detail: str) -> None:
        if self._refused or self._answering:
            # An answer is under way, or was given: a second one cannot follow it.
            self.transport.abort()
            return
        self._refused = True
        self._in_head = False
        self._say(status, code, detail)
        if self._awaits_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # Closing with unread bytes would reset the connection before the client reads the answer.
        self.transport.write_eof()
        self.waiting_since = self.loop.time()
        self._late_at = self.waiting_since + _LINGER_SECONDS

    def _say(
        self, status: int, code: str, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        phrase = HTTPStatus(status).phrase
        body = json.dumps(problem_document(status, code, phrase, detail)).encode()
        lines = [
            f"HTTP/1.1 {status} {phrase}",
            f"Content-Type: {MEDIA_TYPE}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        _log.info("connection refused", status=status, detail=detail)


def client_gone(scope: Mapping[str, Any]) -> bool:
    """Whether the client of the request with this ASGI scope has closed its connection. Quick;
    False under a server that is not this one."""
    closed: Callable[[], bool] | None = scope.get(_CLOSED)
    return closed is not None and closed()


async def _say_unfinished(cycle: RequestResponseCycle) -> None:
    """The answer to a request that was cut off: uvicorn's own is a text without a reason."""
    detail = "the request was cut off before its answer: this process ends, or its log has why"
    body = json.dumps(problem_document(500, "error", "Internal error", detail)).encode()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await cycle.send({"type": "http.response.start", "status": 500, "headers": headers})
    await cycle.send({"type": "http.response.body", "body": body, "more_body": False})


def _seconds(limits: ConnectionLimits) -> tuple[float, ...]:
    return (limits.head_seconds, limits.body_seconds, limits.idle_seconds, limits.write_seconds)
