"""The one synchronous client of a model server: of the controller, of pages, of measuring."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import httpx

from flywheel.contracts.model_server import (
    CLASSIFY,
    CLASSIFY_PATH,
    GENERATE,
    MODELS_PATH,
    NO_ANSWER,
    PROBE,
    Call,
    FailsAtText,
    Look,
    ModelRefused,
    Models,
    Prediction,
    Refusal,
    Unreachable,
    classify_body,
    read_models,
    read_refusal,
    read_scores,
)
from flywheel.errors import FlywheelError, ReleaseNotLoaded, TooManyRequests, Unavailable

# For each step of a request (connect, write, read) of whoever only looks whether a release answers.
LOOK_SECONDS = 5.0
_JSON = {"Content-Type": "application/json"}


class OutOfTime(Unavailable):
    """A server that took the request did not answer in time."""


class ModelServerClient:
    """Thread-safe. Whatever is asked raises Unreachable when the server is not there, Unavailable
    when it ends or lets the request run out of time, or has not got the release (yet),
    ReleaseNotLoaded when it cannot load it, FailsAtText when it fails at this very text,
    TooManyRequests when it is busy, and ModelRefused when the request itself is wrong.

    ``seconds`` bound each step of a request. A busy server is asked again for ``patience`` seconds,
    as it says when. So many connections as ``keep`` stay open between requests.
    """

    def __init__(
        self, url: str, *, seconds: float = LOOK_SECONDS, patience: float = 0.0, keep: int = 0
    ) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        self._http = httpx.Client(
            timeout=seconds,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=keep),
            # A proxy that the environment names is for the world outside.
            trust_env=False,
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def models(self) -> Models:
        """The releases that it serves, and those that it does not."""
        content = self._ask("GET", MODELS_PATH, None)
        try:
            return read_models(content)
        except NO_ANSWER as error:
            raise self._unusable(error) from None

    def ask(self, call: Call, release: str, text: str) -> Prediction:
        """What a release says of one text."""
        started = time.perf_counter()
        content = self._ask("POST", call.path, call.body(release, text))
        try:
            return call.read(content, time.perf_counter() - started)
        except NO_ANSWER as error:
            raise self._unusable(error) from None

    def classify(self, release: str, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label → probability for each of the texts, in one request."""
        content = self._ask("POST", CLASSIFY_PATH, classify_body(release, texts))
        try:
            rows = read_scores(content)
        except NO_ANSWER as error:
            raise self._unusable(error) from None
        if len(rows) != len(texts):
            raise self._unusable(f"{len(rows)} answers to {len(texts)} texts")
        return rows

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        deadline = time.monotonic() + self._patience
        while True:
            response = self._send(method, path, body)
            if response.status_code == 200:
                return response.content
            refusal = read_refusal(
                response.status_code, response.content, response.headers.get("retry-after", "")
            )
            if refusal.meaning != "busy" or time.monotonic() > deadline:
                raise _error(self.url, refusal)
            time.sleep(1.0 if refusal.retry_after is None else refusal.retry_after)

    def _send(self, method: str, path: str, body: bytes | None) -> httpx.Response:
        headers = None if body is None else _JSON
        try:
            return self._http.request(method, self.url + path, content=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL) as error:
            raise Unreachable(f"{self.url}: {error or type(error).__name__}") from None
        except httpx.TimeoutException:
            raise OutOfTime(f"{self.url} did not answer in time") from None
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.url}: {error or type(error).__name__}") from None

    def _unusable(self, why: object) -> FailsAtText:
        return FailsAtText(f"{self.url} answered something else than expected: {why}")


def _error(url: str, refusal: Refusal) -> FlywheelError:
    """A refusal as an error of ``ModelServerClient``."""
    said, retry_after = refusal.said(url), refusal.retry_after or 1.0
    match refusal.meaning:
        case "busy":
            return TooManyRequests(said, retry_after)
        case "not-loaded":
            return ReleaseNotLoaded(said, retry_after)
        case "fails":
            return FailsAtText(said)
        case "away":
            return Unreachable(said, retry_after)
        case "refused":
            return ModelRefused(said)
        case "absent" | "broken":
            return Unavailable(said, retry_after)


class Probe:
    """Implements ``rollout.servers.ModelServer``: is the release listed, and does it answer?"""

    def __init__(self, client: ModelServerClient, *, generate: bool) -> None:
        self._client, self._generate = client, generate

    def look(self, release: str) -> Look:
        """See ``rollout.servers.ModelServer.look``."""
        try:
            models = self._client.models()
        except FlywheelError as error:
            return Look(str(error))
        model = models.served(release)
        if model is None and models.on_demand(release):
            return Look()  # asking would have it loaded, and another one unloaded
        if model is None:
            return Look(f"{self._client.url} {models.why_absent(release)}")
        try:
            if model.kind != "generator":
                self._client.ask(CLASSIFY, release, PROBE)
            elif self._generate:
                self._client.ask(GENERATE, release, PROBE)
        except (OutOfTime, TooManyRequests) as error:
            return Look(str(error), late=True)
        except FlywheelError as error:
            return Look(str(error))
        return Look()

    def absent(self, releases: Collection[str]) -> dict[str, str]:
        """Why the server would not answer for each of the releases; empty where it would."""
        try:
            models = self._client.models()
        except FlywheelError as error:
            return dict.fromkeys(releases, str(error))
        return {
            release: ""
            if models.served(release) is not None or models.on_demand(release)
            else f"{self._client.url} {models.why_absent(release)}"
            for release in releases
        }


def probes(
    endpoints: Sequence[str], seconds: float = LOOK_SECONDS, *, generate: bool = True
) -> tuple[Probe, ...]:
    """A probe for each model server.

    Not to ``generate``: a generator that a server has ready counts as one that answers. A text
    costs a server much more than a label, and whoever only watches asks again and again.
    """
    return tuple(
        Probe(ModelServerClient(url, seconds=seconds), generate=generate) for url in endpoints
    )
