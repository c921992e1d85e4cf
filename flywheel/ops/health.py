"""What the processes of a workspace say of their own health."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

import httpx

HEALTH_SECONDS = 3.0
NO_ANSWER = "it does not answer yet"


def health_problem(url: str) -> str | None:
    """What the process at this /healthz says that it lacks; ``NO_ANSWER`` where nobody answers,
    None when it says that it is well."""
    try:
        response = _http().get(url)
    except httpx.HTTPError:
        return NO_ANSWER
    if response.status_code == 200:
        return None
    with suppress(ValueError, AttributeError):
        checks = json.loads(response.content).get("checks", {})
        return "; ".join(f"{name}: {word}" for name, word in checks.items() if word != "ok")
    return f"/healthz answers {response.status_code}"


def metrics_text(url: str, keys: Sequence[str]) -> str:
    """What the process at this /metrics says, in Prometheus' text format; ``keys`` are what it may
    ask for. Raises httpx.HTTPError when it does not answer so."""
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    return _http().get(url, headers=headers).raise_for_status().text


@cache
def _http() -> httpx.Client:
    # A proxy that the environment names is for the world outside; each look connects anew.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.Client(timeout=HEALTH_SECONDS, limits=limits, trust_env=False)
