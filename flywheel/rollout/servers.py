"""Whether releases answer on the model servers: the port, and its HTTP adapter."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from flywheel.rollout.decide import Readiness

PROBE = "Does this release answer?"


class ModelServers(Protocol):
    """The model servers of an installation."""

    def ready(self, release: str) -> Readiness:
        """On how many servers a real request to ``release`` is answered; never raises."""
        ...


class HttpModelServers:
    """Asks every endpoint: is the release listed (GET /v1/models), does it answer?"""

    def __init__(
        self,
        endpoints: Sequence[str],
        timeout: float = 5.0,
        remember: float = 5.0,
        *,
        generate: bool = True,
    ) -> None:
        """A full yes is believed for ``remember`` seconds; anything less is asked again.

        Not to ``generate``: a generator that a server has ready counts as one that answers. A text
        costs a server much more than a label, and whoever only watches asks again and again.
        """
        self._generate = generate
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in endpoints)
        self._timeout, self._remember = timeout, remember
        self._known: dict[str, tuple[float, Readiness]] = {}

    def ready(self, release: str) -> Readiness:
        """See ``ModelServers.ready``; endpoints are asked at the same time."""
        if not self._endpoints:
            return Readiness(ready=0, total=0, reason="no model server is configured")
        asked, known = self._known.get(release, (0.0, None))
        if known is not None and time.monotonic() - asked < self._remember:
            return known
        with ThreadPoolExecutor(len(self._endpoints), "probe") as pool:
            problems = list(pool.map(lambda url: self._problem(url, release), self._endpoints))
        found = {problem for problem in problems if problem}
        readiness = Readiness(
            ready=problems.count(""), total=len(problems), reason="; ".join(sorted(found))
        )
        self._known.pop(release, None)
        if not found:
            self._known[release] = (time.monotonic(), readiness)
        return readiness

    def _problem(self, endpoint: str, release: str) -> str:
        """Why this endpoint does not answer for the release; empty when it does."""
        try:
            listed = self._call(f"{endpoint}/v1/models", None)
            model = next((m for m in listed["data"] if m["id"] == release), None)
            if model is None:
                return _why_absent(endpoint, release, listed)
            if model.get("kind") == "generator":
                return self._generates(endpoint, release) if self._generate else ""
            answer = self._call(f"{endpoint}/classify", {"model": release, "input": [PROBE]})
            return "" if answer["data"][0]["label"] else f"{endpoint} answered without a label"
        except urllib.error.HTTPError as error:
            with error:
                return f"{endpoint} answered {error.code}"
        except (OSError, ValueError) as error:
            return f"{endpoint}: {getattr(error, 'reason', None) or error}"
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            return f"{endpoint} answered something else than expected: {error!r}"

    def _generates(self, endpoint: str, release: str) -> str:
        asked = {"model": release, "messages": [{"role": "user", "content": PROBE}]}
        answer = self._call(f"{endpoint}/v1/chat/completions", asked)
        content = answer["choices"][0]["message"]["content"]
        return "" if isinstance(content, str) else f"{endpoint} answered without a text"

    def _call(self, url: str, body: object) -> dict[str, list[dict[str, Any]]]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - configured endpoints, http or https
            url, data, {"Content-Type": "application/json"} if data else {}
        )
        with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
            found: dict[str, list[dict[str, Any]]] = json.load(response)
        return found


def _why_absent(endpoint: str, release: str, listed: dict[str, list[dict[str, Any]]]) -> str:
    """What the server itself says of a release that it does not serve."""
    for model in listed.get("unavailable", []):
        if model["id"] == release and model.get("reason"):
            return f"{endpoint} could not load it: {model['reason']}"
        if model["id"] == release:
            return f"{endpoint} is still loading it"
    return f"{endpoint} has not loaded it"
