"""The public HTTP interfaces, as a user's program would call them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any

import httpx

from flywheel.errors import Unavailable

Json = dict[str, Any]

# Where the demo's users come from; triage keeps a history of each.
SOURCES = ("web", "app", "voice", "partner")


class Client:
    """Gateway and console of one workspace. Calls are retried while a process is restarted."""

    def __init__(self, http: httpx.AsyncClient, gateway: str, console: str) -> None:
        self._http = http
        self.gateway = gateway
        self.console = console

    async def call(
        self,
        method: str,
        url: str,
        body: Json | None = None,
        patience: float = 60.0,
        failed: Callable[[str], None] | None = None,
        **headers: str,
    ) -> Json:
        """The JSON answer to a request.

        A refused connection, a 5xx and a 429 are tried again until ``patience`` seconds are over;
        then, and for any other status, Unavailable is raised with what the server said.
        ``failed`` is told of every attempt that failed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        problem = ""
        while True:
            try:
                answer = await self._http.request(
                    method,
                    url,
                    json=body,
                    headers={k.replace("_", "-"): v for k, v in headers.items()},
                )
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                if failed:
                    failed(problem)
            else:
                if answer.status_code < 300:
                    return dict(answer.json())
                problem = f"{answer.status_code} {answer.text[:300]}"
                if failed:
                    failed(problem)
                if answer.status_code < 500 and answer.status_code != 429:
                    raise Unavailable(f"{method} {url}: {problem}")
            if loop.time() > deadline:
                raise Unavailable(f"{method} {url} failed for {patience:.0f} s: {problem}")
            await asyncio.sleep(0.25)

    async def classify(
        self, task: str, text: str, user: str, sample_id: str, failed: Callable[[str], None]
    ) -> Json:
        """Ask the gateway. A repeated call with the same sample id counts once."""
        body: Json = {"task": task, "text": text, "user": user}
        url = f"{self.gateway}/v1/classify"
        return await self.call(
            "POST",
            url,
            body,
            failed=failed,
            x_flywheel_sample_id=sample_id,
            x_flywheel_source=SOURCES[zlib.crc32(user.encode()) % len(SOURCES)],
        )

    async def overview(self, task: str) -> Json:
        """What the console's first page shows."""
        return await self.call("GET", f"{self.console}/api/overview/{task}")

    async def rollouts(self, task: str) -> Json:
        """The split, the running rollout and the past ones."""
        return await self.call("GET", f"{self.console}/api/rollouts/{task}")

    async def releases(self, task: str) -> Json:
        """Every release of a task."""
        return await self.call("GET", f"{self.console}/api/releases/{task}")

    async def next_samples(self, task: str, annotator: str, limit: int) -> Json:
        """Samples that this annotator should label next."""
        url = f"{self.console}/api/review/{task}/next?annotator={annotator}&limit={limit}"
        return await self.call("GET", url)

    async def answer(self, task: str, sample_id: str, annotator: str, value: str) -> Json:
        """Label one sample."""
        url = f"{self.console}/api/review/{task}/{sample_id}/answer"
        return await self.call(
            "POST", url, {"annotator": annotator, "value": value, "seconds": 1.0}
        )
