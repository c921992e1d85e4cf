"""The gateway's OpenAPI description, made from the types that its requests are checked by."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from flywheel.gateway.requests import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResponse,
    FeedbackRequest,
    SampleRequest,
)
from flywheel.monitoring.openapi import OF_CONNECTIONS, PROBLEM, health_paths, problems

_OPEN: dict[str, Any] = {"type": "object"}
_CHAT = (
    "`model` is a task. A task with labels answers with one of them, for the last message of the "
    "user, a dialogue for all messages; with `logprobs`, the label is one token and its "
    "log-probability that of its calibrated score, `top_logprobs` having the best labels. A task "
    "without labels generates text, for the one message that there is, and has `confidence` "
    "(0 to 1) beside it. The release's own prompt, longest answer and greedy decoding are part of "
    "what was evaluated: parameters that would change the answer are refused by name, those that "
    "say what is so anyway (temperature 0, n 1) or that no answer depends on are taken, and null "
    "is the same as leaving one out."
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
        ("idempotency-key", 128, "Names the request, so that what is sent again counts once."),
    )
]


_ASKING: Mapping[int, str] = {
    400: "The body, a field or a header is not as expected; the detail names it.",
    401: "The key is missing or wrong.",
    403: "Another site caused it, or it names a host that is not answered (without keys).",
    404: "There is no such task.",
    413: "The body or the text is too large.",
    429: "More requests per second than this caller may make.",
    500: "An unexpected error.",
    503: "Nothing can answer now, or nothing can be recorded; see Retry-After.",
    **OF_CONNECTIONS,
}
_ANSWERING: Mapping[int, str] = {
    **_ASKING,
    409: "This sample id stands for another text.",
    501: "No model reads inputs of this task's kind: POST /v1/samples takes them.",
    503: "No release serves the task yet, no model server answers, nothing can be recorded, or "
    "every connection is in use; see Retry-After.",
}
_KEEPING: Mapping[int, str] = {**_ASKING, 409: _ANSWERING[409]}
_SAYING = {**_ASKING, 409: "This Idempotency-Key stands for other feedback."}
_READING: Mapping[int, str] = {
    status: words for status, words in _ASKING.items() if status not in (404, 413, 429)
}


@cache
def openapi(metrics_key: bool = False) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the gateway; ``metrics_key``: whether /metrics asks for one."""
    types = (ChatRequest, ClassifyRequest, ClassifyResponse, FeedbackRequest, SampleRequest)
    refs, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    chat, classify, classified, feedback, sample = refs
    answering = _operation("Answer the last user message (OpenAI)", _ANSWERING, "200", chat)
    answering["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    one = {
        "name": "model",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "A task.",
    }
    unknown = {**_READING, 404: "There is no such task."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Flywheel gateway", "version": "1"},
        "paths": {
            "/v1/chat/completions": {"post": {**answering, "description": _CHAT}},
            "/v1/classify": {
                "post": _operation("Classify one text", _ANSWERING, "200", classify, classified)
            },
            "/v1/samples": {
                "post": _operation("Keep an input that people label", _KEEPING, "202", sample)
            },
            "/v1/feedback": {
                "post": _operation("Say what was right for a sample", _SAYING, "202", feedback)
            },
            "/v1/models": {"get": _operation("The tasks that can be asked", _READING, "200")},
            "/v1/models/{model}": {
                "get": {**_operation("One task", unknown, "200"), "parameters": [one, *_HEADERS]}
            },
            **health_paths(metrics_key),
        },
        "components": {
            "schemas": {**components, "Problem": PROBLEM},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(
    summary: str,
    when: Mapping[int, str],
    status: str,
    body: dict[str, Any] | None = None,
    answer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": answer or _OPEN}}
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": _HEADERS,
        "responses": {status: {"description": "Done", "content": content}, **problems(when)},
    }
    if body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    return operation
