"""What every OpenAPI document of the product says alike: problems, and health."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flywheel.monitoring.problems import MEDIA_TYPE

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem details; `error` says the same where OpenAI's clients look.",
    "required": ["type", "title", "status", "detail", "code", "error"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "param"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "code": {"type": "string"},
                "param": {"type": ["string", "null"]},
            },
        },
    },
}
_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
# Any listener's, before a request reaches a route.
OF_CONNECTIONS: Mapping[int, str] = {
    408: "The request did not come to its end in time.",
    431: "The head is larger than 32 KiB.",
    503: "Every connection is in use.",
}


def problems(when: Mapping[int, str]) -> dict[str, Any]:
    """Responses that are problem documents, by status and what it means."""
    return {
        str(status): {"description": words, "content": _CONTENT}
        for status, words in sorted(when.items())
    }


def health_paths(asks_for_key: bool) -> dict[str, Any]:
    """/healthz and /metrics, as ``health_routes`` adds them."""
    metrics = {401: "The key for metrics is missing or wrong."} if asks_for_key else {}
    checks = {"application/json": {"schema": {"type": "object"}}}
    return {
        "/healthz": {
            "get": {
                "summary": "Whether this process is well",
                "security": [],
                "responses": {
                    "200": {"description": "Every check is ok.", "content": checks},
                    "503": {"description": "A check fails, and says why.", "content": checks},
                },
            }
        },
        "/metrics": {
            "get": {
                "summary": "Metrics in Prometheus' text format",
                "responses": {
                    "200": {
                        "description": "Every metric of this process.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                    **problems({403: "This host is not one that is answered.", **metrics}),
                },
            }
        },
    }
