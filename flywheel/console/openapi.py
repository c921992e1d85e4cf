"""The console's OpenAPI document: what FastAPI says of the APIs, with the errors as they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import flywheel.registry.app
import flywheel.review.app
import flywheel.rollout.app
from flywheel.monitoring.answers import schemas_of
from flywheel.monitoring.openapi import OF_CONNECTIONS, PROBLEM, health_paths, problems

_DESCRIPTION = (
    "Review, rollouts and releases. Programs send one of FLYWHEEL_CONSOLE_API_KEYS as a bearer "
    "token; people sign in at /login. Pages for people are not listed here."
)
# What the guard, the database and the connection may say to any request.
_ANY: Mapping[int, str] = {
    400: "A part of the address is not as expected.",
    401: "The key is missing or wrong.",
    403: "Another site caused it, it is not JSON, or it names a host that is not answered.",
    404: "There is no such task, or nothing of that name.",
    429: "Too many wrong keys from this address; see Retry-After.",
    500: "An unexpected error.",
    **OF_CONNECTIONS,
    503: "The database cannot be used, or every connection is in use; see Retry-After.",
}
_WRITING: dict[int, str] = {413: "The body is larger than 256 KiB."}
_INVALID = {422: "A field is not as expected; `errors` names each."}
_FORM = "application/x-www-form-urlencoded"


def describe(app: FastAPI, metrics_key: bool) -> None:
    """Have the app describe itself; ``metrics_key``: whether /metrics asks for a key."""
    kinds = (*flywheel.review.app.ANSWERS, *flywheel.rollout.app.ANSWERS)
    answered = schemas_of((*kinds, *flywheel.registry.app.ANSWERS))

    @cache
    def openapi() -> dict[str, Any]:
        document = get_openapi(
            title=app.title, version="1", description=_DESCRIPTION, routes=app.routes
        )
        for methods in document["paths"].values():
            for method, operation in methods.items():
                _say_errors(method, operation)
        document["paths"] |= _signing_in() | health_paths(metrics_key)
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas |= {**answered, "Problem": PROBLEM}
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _say_errors(method: str, operation: dict[str, Any]) -> None:
    """Every error that an operation may answer with, as the problem document that it is."""
    responses = operation["responses"]
    own = {int(status): one["description"] for status, one in responses.items() if status >= "400"}
    when = {**_ANY, **(_WRITING if method == "post" else {}), **own}
    if 422 in own:
        when |= _INVALID
    responses |= problems(when)


def _signing_in() -> dict[str, Any]:
    fields = {
        "type": "object",
        "required": ["key"],
        "properties": {"key": {"type": "string"}, "next": {"type": "string"}},
    }
    page = {"text/html": {"schema": {"type": "string"}}}
    refused = {status: _ANY[status] for status in (400, 403, 408, 431, 500, 503)} | _WRITING
    return {
        "/login": {
            "post": {
                "summary": "Open a session for the holder of a key",
                "security": [],
                "requestBody": {"content": {_FORM: {"schema": fields}}},
                "responses": {
                    "303": {"description": "Signed in: a cookie, and where to go."},
                    "401": {"description": "The key is wrong.", "content": page},
                    "429": {
                        "description": "Too many wrong keys; see Retry-After.",
                        "content": page,
                    },
                    **problems(refused),
                },
            }
        },
        "/logout": {
            "post": {
                "summary": "End the session",
                "responses": {
                    "303": {"description": "The session opens nothing any more."},
                    **problems(refused | {401: _ANY[401], 429: _ANY[429]}),
                },
            }
        },
    }
