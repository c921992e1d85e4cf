"""What a page of another site must not make a browser do to a listener on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from flywheel.contracts.addresses import is_loopback
from flywheel.errors import ForbiddenOrigin, RequestError
from flywheel.monitoring.problems import problem_of

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_JSON = "application/json"
# What curl says of -d, and nothing at all: no page can send JSON so without naming its origin.
_PLAIN_CLIENTS = frozenset({"", "application/x-www-form-urlencoded"})


def check_host(headers: Mapping[str, str], names: frozenset[str] | None) -> None:
    """Raises ForbiddenOrigin for a Host that is none of ``names`` (None: any will do)."""
    if names is None:
        return
    host = _hostname(headers.get("host", ""))
    if host not in names and not is_loopback(host):
        raise ForbiddenOrigin(
            f"this server answers to {', '.join(sorted(names))} alone, not to {host!r}: set keys "
            "(FLYWHEEL_GATEWAY_API_KEYS, FLYWHEEL_CONSOLE_API_KEYS) or allowed_hosts to reach it "
            "by another name"
        )


def check_same_origin(headers: Mapping[str, str]) -> None:
    """Raises ForbiddenOrigin for a request that a page of another site caused."""
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if site not in (None, "same-origin", "none") or (
        origin is not None and _netloc(origin) != headers.get("host")
    ):
        raise ForbiddenOrigin("another site caused this request; send it from this one, or no page")


def check_json(headers: Mapping[str, str], *, only: bool = False) -> None:
    """Raises ForbiddenOrigin for a content type that a page may send without asking.

    ``only`` takes nothing but JSON; else a client that is no browser may leave the type out.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _JSON:
        return
    browser = "origin" in headers or "sec-fetch-site" in headers
    if only or browser or kind not in _PLAIN_CLIENTS:
        raise ForbiddenOrigin("send JSON, with the header Content-Type: application/json")


class ForeignPages:
    """ASGI middleware for listeners without keys: refuses what a foreign page could send.

    ``names`` as in ``check_host``; with None there are keys, which no foreign page has, or it is
    for the network to say who may ask.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str] | None) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 in the app's place, or ask the app."""
        if scope["type"] == "http" and self._names is not None:
            headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
            try:
                if scope["path"] != "/healthz":
                    check_host(headers, self._names)
                if scope["method"] not in SAFE_METHODS:
                    check_same_origin(headers)
                    check_json(headers)
            except RequestError as error:
                await problem_of(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
