"""The gateway's OpenAPI description, made from the types that its requests are checked by."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from flywheel.gateway.requests import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResponse,
    FeedbackRequest,
)

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem details; `error` is the same for OpenAI clients.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "error": {"type": "object"},
    },
}
_OPEN: dict[str, Any] = {"type": "object"}
_CHAT = (
    "`model` is a task. A task with labels answers with one of them, for the last message of the "
    "user. A task without generates text, for the one message that there is: the release's own "
    "prompt, longest answer and greedy decoding are part of what was evaluated, so `max_tokens`, "
    "`temperature` above 0, `n` above 1, system messages, earlier turns and every other field "
    "that would change the answer are refused, and nothing is ignored. `confidence` beside the "
    "message is the server's, from 0 to 1."
)
_HEADERS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": length},
        "description": description,
    }
    for name, length, description in (
        ("x-flywheel-sample-id", 128, "Names the sample, so that a repeated request counts once."),
        ("x-flywheel-source", 64, "Names where the traffic comes from."),
    )
]


@cache
def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the gateway."""
    types = (ChatRequest, ClassifyRequest, ClassifyResponse, FeedbackRequest)
    refs, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    chat, classify, classified, feedback = refs
    return {
        "openapi": "3.1.0",
        "info": {"title": "Flywheel gateway", "version": "1"},
        "paths": {
            "/v1/chat/completions": {
                "post": _operation("Answer the last user message (OpenAI)", chat, "200", _OPEN)
                | {"description": _CHAT}
            },
            "/v1/classify": {"post": _operation("Classify one text", classify, "200", classified)},
            "/v1/feedback": {
                "post": _operation("Say what was right for a sample", feedback, "202", _OPEN)
            },
            "/v1/models": {"get": _operation("The tasks that can be asked", None, "200", _OPEN)},
        },
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(
    summary: str, body: dict[str, Any] | None, status: str, answer: dict[str, Any]
) -> dict[str, Any]:
    problem = {"$ref": "#/components/schemas/Problem"}
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": _HEADERS if body else [],
        "responses": {
            status: {"description": "Done", "content": {"application/json": {"schema": answer}}},
            "default": {
                "description": "A problem, and what to do about it",
                "content": {"application/problem+json": {"schema": problem}},
            },
        },
    }
    if body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    return operation
