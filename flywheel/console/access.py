"""Who may use the console: bearer keys, signed session cookies, same-origin requests, headers."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple
from urllib.parse import quote

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flywheel.console.sign_ins import SignIns
from flywheel.errors import FlywheelError, RequestError, Unauthorised
from flywheel.monitoring.bearer import AcceptedKeys, bearer
from flywheel.monitoring.foreign_pages import (
    SAFE_METHODS,
    check_host,
    check_json,
    check_same_origin,
)
from flywheel.monitoring.problems import problem_of

_COOKIE = "flywheel_session"
# From the last use on; a session that is used gets a later end this often at most.
SESSION_SECONDS = 12 * 3600
RENEWED_SECONDS = 600
_PORT = re.compile(r":([0-9]{1,5})$", re.ASCII)
_EXPIRES = re.compile(r"[0-9]{1,11}", re.ASCII)
_OPEN = ("/healthz", "/login")
_OPEN_FOLDERS = ("/assets/", "/static/")
_FORMS = frozenset({"/login", "/logout"})
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Session(NamedTuple):
    """A signed-in browser: ``id`` names it where its token must not stand, and stays through every
    renewal; ``renewed`` is a token with a later end, once the present one is not fresh."""

    id: str
    renewed: str | None


class Keyring:
    """The accepted keys: makes and reads session tokens.

    A session is signed with the key that opened it, so it ends when that key is taken away.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(key.encode() for key in keys)
        self.sign_ins = SignIns(AcceptedKeys(keys))

    @property
    def required(self) -> bool:
        """Whether any key is set; without one the console is open (on loopback alone)."""
        return bool(self._keys)

    def open_session(self, offered: str, now: float | None = None) -> str:
        """A signed token for the holder of a key that ``sign_ins`` accepted."""
        return self._token(offered.encode(), secrets.token_urlsafe(12), _moment(now))

    def session(self, token: str, now: float | None = None) -> Session | None:
        """The session of a token that was signed with a present key and has not run out.

        Whether it was ended before its time is not in the token: see ``ports.EndedSessions``.
        """
        body, _, signature = token.rpartition(".")
        expires, _, name = body.partition(".")
        at = _moment(now)
        if not _EXPIRES.fullmatch(expires) or int(expires) < at:
            return None
        given = signature.encode()
        signed = [
            key for key in self._keys if hmac.compare_digest(given, self._sign(key, body).encode())
        ]
        if not signed:
            return None
        fresh = int(expires) - at > SESSION_SECONDS - RENEWED_SECONDS
        return Session(
            hashlib.sha256(name.encode()).hexdigest(),
            None if fresh else self._token(signed[0], name, at),
        )

    def _token(self, key: bytes, name: str, at: float) -> str:
        body = f"{int(at + SESSION_SECONDS)}.{name}"
        return f"{body}.{self._sign(key, body)}"

    @staticmethod
    def _sign(key: bytes, body: str) -> str:
        secret = hashlib.sha256(b"flywheel console session 2\x00" + key).digest()
        return hmac.new(secret, body.encode(), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware in front of every route of the console."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        names: frozenset[str] | None,
        ended: Callable[[str], bool],
        metrics: AcceptedKeys,
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._names = names
        self._ended = ended
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what may not pass, and add the security headers to every answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        renewed: str | None = None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if renewed is not None:
                    headers.append("Set-Cookie", session_cookie(scope, renewed))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(_OPEN_FOLDERS):
                    headers.setdefault("Cache-Control", "no-cache")
                else:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            refusal, renewed = await self._admitted(scope)
        except FlywheelError as error:
            refusal = problem_of(error)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    async def _admitted(self, scope: Scope) -> tuple[Response | None, str | None]:
        """A refusal, or None and the token that the browser's session goes on with, if another."""
        headers = Headers(scope=scope)
        path: str = scope["path"]
        query = scope["query_string"].decode("latin-1")
        if "\x00" in path or "%00" in query:
            raise RequestError("the address holds a NUL character")
        if path != "/healthz":
            check_host(headers, self._names)
        if scope["method"] not in SAFE_METHODS:
            check_same_origin(headers)
            if path not in _FORMS:
                check_json(headers, only=True)
        if path in _OPEN or path.startswith(_OPEN_FOLDERS):
            return None, None
        if path == "/metrics" and self._metrics and self._metrics.accept(bearer(headers)):
            return None, None
        session = self._keyring.session(session_token(headers))
        if session is not None and not await run_in_threadpool(self._ended, session.id):
            return None, None if path in _FORMS else session.renewed
        if self._known(headers, peer_of(scope), path):
            return None, None
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            wanted = path + (f"?{query}" if query else "")
            return RedirectResponse(f"/login?next={quote(wanted, safe='')}", 303), None
        refused = Unauthorised("send one of the console's keys as a bearer token")
        return problem_of(refused), None

    def _known(self, headers: Headers, peer: str, path: str) -> bool:
        if not self._keyring.required:
            return path != "/metrics" or not self._metrics
        key = bearer(headers)
        return bool(key) and self._keyring.sign_ins.accept(peer, key)


def _moment(now: float | None) -> float:
    return time.time() if now is None else now


def peer_of(scope: Scope) -> str:
    """The address that a request came from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def cookie_name(headers: Headers) -> str:
    """What the session cookie is called: browsers tell hosts apart and not ports, so that consoles
    on one host would sign each other out."""
    port = _PORT.search(headers.get("host", ""))
    return f"{_COOKIE}_{port[1]}" if port else _COOKIE


def session_cookie(scope: Scope, token: str) -> str:
    """A Set-Cookie header that has the browser keep ``token``."""
    answer = Response()
    answer.set_cookie(
        cookie_name(Headers(scope=scope)),
        token,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=scope["scheme"] == "https",
    )
    return answer.headers["set-cookie"]


def session_token(headers: Headers) -> str:
    """The session cookie's value, or an empty text."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(cookie_name(headers))
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def safe_target(target: str) -> str:
    """Where to go after signing in: a path of this console, or the overview."""
    # Browsers drop control characters and read a backslash as a slash.
    odd = any(ord(character) < 33 or character == "\\" for character in target)
    return target if target.startswith("/") and not target.startswith("//") and not odd else "/"
