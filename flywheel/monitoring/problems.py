"""HTTP errors as problem details (RFC 9457), which OpenAI's clients can read too."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from flywheel.errors import FlywheelError, StorageError

MEDIA_TYPE = "application/problem+json"
_log = structlog.get_logger(__name__)


def problem_document(
    status: int, code: str, title: str, detail: str, param: str | None = None, **extra: Any
) -> dict[str, Any]:
    """One problem. ``type`` is a stable relative reference made of the code; ``error`` says the
    same where OpenAI's clients look for it, ``param`` being the field that was wrong."""
    return {
        "type": f"/problems/{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "error": openai_error(code, detail, param),
        **extra,
    }


def openai_error(code: str, message: str, param: str | None = None) -> dict[str, str | None]:
    """What OpenAI's clients read of an answer with a status from 400 on, and show."""
    return {"message": message, "type": code, "code": code, "param": param}


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    headers: dict[str, str] | None = None,
    **extra: Any,
) -> Response:
    """One problem document as a response; the arguments are those of ``problem_document``."""
    body = problem_document(status, code, title, detail, **extra)
    return JSONResponse(body, status, headers=headers, media_type=MEDIA_TYPE)


def problem_of(error: FlywheelError) -> Response:
    """The problem document of one of our errors, with Retry-After where it knows one."""
    retry_after = getattr(error, "retry_after", 1.0 if error.retryable else None)
    headers = {"Retry-After": str(math.ceil(retry_after))} if retry_after is not None else {}
    if error.status == 409:
        # OpenAI's clients would repeat it, and meet the same.
        headers["x-should-retry"] = "false"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    param = getattr(error, "param", None)
    return problem(error.status, error.code, error.title, str(error), headers, param=param)


def install_problem_details(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem document."""

    async def flywheel_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, FlywheelError)  # noqa: S101 - registered for this type alone
        if error.status >= 500:
            _log.warning("request failed", code=error.code, detail=str(error))
        return problem_of(error)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        problems = [
            {"where": ".".join(str(part) for part in item["loc"]), "problem": item["msg"]}
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['where']}: {item['problem']}" for item in problems)
        return problem(422, "invalid-request", "Invalid request", detail, errors=problems)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        title = str(error.detail)
        code = title.lower().replace(" ", "-")
        headers = dict(error.headers) if error.headers else None
        detail = title
        if title == HTTPStatus(error.status_code).phrase:
            # The framework's own, for a route or a method that there is not.
            detail = f"{title}: {request.method} {request.url.path} is not answered here"
        return problem(error.status_code, code, title, detail, headers)

    async def gone(_request: Request, _error: Exception) -> Response:
        # Nobody reads this: the client went away before its request was whole.
        return Response(status_code=400)

    async def unexpected(request: Request, error: Exception) -> Response:
        _log.error("unexpected error", path=request.url.path, exc_info=error)
        detail = "An unexpected error; the log of this process has the details."
        # The server closes the connection after it: who keeps connections must not use this one.
        closing = {"Connection": "close"}
        return problem(500, "error", "Internal error", detail, closing)

    app.add_exception_handler(FlywheelError, flywheel_error)
    app.add_exception_handler(StorageError, flywheel_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, unexpected)
