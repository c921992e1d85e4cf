"""Who may use the console: bearer keys, signed session cookies, same-origin requests, headers."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flywheel.errors import FlywheelError, Unauthorised
from flywheel.monitoring.foreign_pages import (
    SAFE_METHODS,
    check_host,
    check_json,
    check_same_origin,
)
from flywheel.monitoring.problems import problem_of

COOKIE = "flywheel_session"
SESSION_SECONDS = 12 * 3600
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


class Keyring:
    """The accepted keys: checks one in constant time, makes and reads session tokens.

    A session is signed with the key that opened it, so it ends when that key is taken away.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(key.encode() for key in keys)

    @property
    def required(self) -> bool:
        """Whether any key is set; without one the console is open (on loopback alone)."""
        return bool(self._keys)

    def accepts(self, offered: str) -> bool:
        """Whether ``offered`` is one of the keys; the time taken does not tell which."""
        given = offered.encode()
        return sum(hmac.compare_digest(given, key) for key in self._keys) > 0

    def open_session(self, offered: str, now: float | None = None) -> str:
        """A signed token for the holder of a key that ``accepts`` said yes to."""
        expires = int((time.time() if now is None else now) + SESSION_SECONDS)
        body = f"{expires}.{secrets.token_urlsafe(12)}"
        return f"{body}.{self._sign(offered.encode(), body)}"

    def session_holds(self, token: str, now: float | None = None) -> bool:
        """Whether a token was signed with a present key and has not run out."""
        body, _, signature = token.rpartition(".")
        expires = body.partition(".")[0]
        if not expires.isdigit() or int(expires) < (time.time() if now is None else now):
            return False
        given = signature.encode()
        signed = [self._sign(key, body).encode() for key in self._keys]
        return sum(hmac.compare_digest(given, one) for one in signed) > 0

    @staticmethod
    def _sign(key: bytes, body: str) -> str:
        secret = hashlib.sha256(b"flywheel console session\x00" + key).digest()
        return hmac.new(secret, body.encode(), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware in front of every route of the console."""

    def __init__(self, app: ASGIApp, keyring: Keyring, names: frozenset[str] | None) -> None:
        self._app = app
        self._keyring = keyring
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what may not pass, and add the security headers to every answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(_OPEN_FOLDERS):
                    headers.setdefault("Cache-Control", "no-cache")
                else:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        path: str = scope["path"]
        try:
            if path != "/healthz":
                check_host(headers, self._names)
            if scope["method"] not in SAFE_METHODS:
                check_same_origin(headers)
                if path not in _FORMS:
                    check_json(headers, only=True)
        except FlywheelError as error:
            return problem_of(error)
        if path in _OPEN or path.startswith(_OPEN_FOLDERS) or self._known(headers):
            return None
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            wanted = path + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
            return RedirectResponse(f"/login?next={quote(wanted, safe='')}", 303)
        return problem_of(Unauthorised("send one of the console's keys as a bearer token"))

    def _known(self, headers: Headers) -> bool:
        if not self._keyring.required:
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._keyring.accepts(key.strip()):
            return True
        return self._keyring.session_holds(session_token(headers))


def session_token(headers: Headers) -> str:
    """The session cookie's value, or an empty text."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def safe_target(target: str) -> str:
    """Where to go after signing in: a path of this console, or the overview."""
    # Browsers drop control characters and read a backslash as a slash.
    odd = any(ord(character) < 33 or character == "\\" for character in target)
    return target if target.startswith("/") and not target.startswith("//") and not odd else "/"
