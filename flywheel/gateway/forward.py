"""Requests to the model servers: spread, retried on another replica, within one deadline."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from types import SimpleNamespace

import aiohttp
import msgspec
from prometheus_client import Counter

from flywheel.contracts.model_server import (
    NO_ANSWER,
    PROBE,
    Call,
    FailsAtText,
    ModelRefused,
    Prediction,
    Refusal,
    Unreachable,
    read_refusal,
)
from flywheel.errors import ReleaseNotLoaded, RequestError, Unavailable
from flywheel.gateway.circuits import Circuits
from flywheel.gateway.replicas import Replica, Replicas

_retries = Counter("flywheel_gateway_retries_total", "Calls to a model server that were retried.")

# An arm of a rollout has this share of the timeout to answer in, the same for both arms; who stands
# in for one that did not has the rest.
PATIENCE = 0.5
FIRST_BACK_OFF_SECONDS = 0.02
LONGEST_BACK_OFF_SECONDS = 0.5
SKIP_SECONDS = 1.0
BUSY_SECONDS = 0.05
# How long a model server that hung has for saying how it is.
HEALTH_SECONDS = 2.0


class _Retry(Exception):
    """Why a call should be made again, and for how long its endpoint is better left alone.

    ``whole`` leaves it alone for every release, not for this one only. ``about_text`` says that
    the server failed at this very text, which no amount of repeating will change; ``unreached``
    that the request was not sent to any: a server that ends or hangs with it may do so by it.
    ``hung`` that it was waited for in vain; ``not_loaded`` that the server could not load the
    release, with the seconds until it tries again.
    """

    def __init__(
        self,
        why: str,
        skip_seconds: float,
        *,
        whole: bool = False,
        about_text: bool = False,
        unreached: bool = False,
        hung: bool = False,
        not_loaded: float | None = None,
    ) -> None:
        super().__init__(why)
        self.skip_seconds = skip_seconds
        self.whole = whole
        self.about_text = about_text
        self.unreached = unreached
        self.hung = hung
        self.not_loaded = not_loaded


class ModelServers:
    """All replicas of the model server behind one call. Lives in one event loop."""

    def __init__(
        self, endpoints: Sequence[str], timeout_seconds: float, max_connections: int = 256
    ) -> None:
        self._replicas = Replicas(endpoints, self._answers)
        self._circuits = Circuits(self._back)
        self.timeout = timeout_seconds
        # A replica that hangs must leave time to ask another one.
        self._patience = timeout_seconds / min(3, 1 + len(endpoints))
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._answered_at = -math.inf

    async def open(self) -> None:
        """Make the connection pool."""
        self._session = aiohttp.ClientSession(
            # Each replica by itself: one that hangs must not hold the connections of the others.
            connector=aiohttp.TCPConnector(
                limit=0, limit_per_host=self._max_connections, keepalive_timeout=30.0
            ),
            headers={"Content-Type": "application/json"},
            auto_decompress=False,
            trust_env=False,
            trace_configs=[_tracing()],
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._circuits.close()
        await self._replicas.close()
        if self._session is not None:
            await self._session.close()

    def outage_since(self, moment: float, error: RequestError) -> bool:
        """Whether a call that began at ``moment`` of time.monotonic() failed as no model server
        was there for anyone: that says nothing of its release."""
        return isinstance(error, Unreachable) and self._answered_at < moment

    async def ask_arm(self, call: Call, release: str, text: str) -> Prediction:
        """Do as ``ask`` does, for an arm of a rollout: with an arm's patience, and with none
        (PassedOver) while its release lets one request after another run out of time."""
        self._circuits.require_closed(release)
        started = time.monotonic()
        try:
            prediction = await self.ask(call, release, text, PATIENCE * self.timeout)
        except (FailsAtText, ReleaseNotLoaded):
            raise  # it costs nobody's time
        except Unavailable as error:
            if not self.outage_since(started, error):
                self._circuits.ran_out(call, release, str(error))
            raise
        self._circuits.answered(release)
        return prediction

    async def ask(
        self, call: Call, release: str, text: str, within: float | None = None
    ) -> Prediction:
        """Make a call to any replica that has ``release``.

        Inference changes nothing, so a call that failed is repeated on another replica, with
        growing pauses, for ``within`` seconds (never longer than the timeout). Raises Unavailable
        when no replica answered by then (Unreachable: nor was sent it), ReleaseNotLoaded when none
        could load the release, FailsAtText when all fail at this text, and ModelRefused when one
        says that the request is wrong.
        """
        body = call.body(release, text)
        seconds = self.timeout if within is None else min(within, self.timeout)
        deadline = time.monotonic() + seconds
        back_off = FIRST_BACK_OFF_SECONDS
        failures = text_failures = 0
        unreached = True
        not_loaded: dict[Replica, float] = {}
        while True:
            replica = self._replicas.choose(release)
            try:
                prediction = await self._attempt(call, replica, body, deadline)
                self._answered_at = time.monotonic()
                replica.answered(release)
                if failures:
                    prediction = msgspec.structs.replace(prediction, attempts=failures + 1)
                return prediction
            except _Retry as retry:
                if retry.hung:
                    # Not with this text: it may be the one that no model server can take.
                    self._replicas.hung(replica, release, call.path, call.body(release, PROBE))
                else:
                    replica.leave_alone(release, retry.skip_seconds, whole=retry.whole)
                failures += 1
                unreached = unreached and retry.unreached
                text_failures += retry.about_text
                if retry.not_loaded is not None:
                    not_loaded[replica] = retry.not_loaded
                    if len(not_loaded) == len(self._replicas):
                        raise ReleaseNotLoaded(
                            f"no model server could load {release}; the last one said: {retry}",
                            min(not_loaded.values()),
                        ) from None
                else:
                    not_loaded.pop(replica, None)
                if text_failures > len(self._replicas):
                    raise FailsAtText(f"{release} fails at this text: {retry}") from None
                if time.monotonic() + back_off >= deadline:
                    raise (Unreachable if unreached else Unavailable)(
                        f"no model server answered for {release} within {seconds:g} s; "
                        f"the last one said: {retry}"
                    ) from None
            _retries.inc()
            if failures % len(self._replicas) == 0:
                await asyncio.sleep(back_off)
                back_off = min(back_off * 2, LONGEST_BACK_OFF_SECONDS)

    async def _back(self, call: Call, release: str) -> bool:
        """``circuits.Trial``."""
        started = time.monotonic()
        try:
            await self.ask(call, release, PROBE, PATIENCE * self.timeout)
        except (FailsAtText, ReleaseNotLoaded, ModelRefused):
            return True  # whoever asks is told so at once
        except Unavailable as error:
            # Where no model server is there at all, what happens now says nothing of the release.
            return self.outage_since(started, error)
        return True

    async def _answers(self, url: str, body: bytes | None) -> bool:
        """``replicas.Probe``."""
        if self._session is None:
            return False
        method, seconds = ("GET", HEALTH_SECONDS) if body is None else ("POST", self._patience)
        try:
            async with asyncio.timeout(seconds):
                async with self._session.request(
                    method, url, data=body, trace_request_ctx=SimpleNamespace(sent=False)
                ) as response:
                    await response.read()
        except (TimeoutError, aiohttp.ClientError):
            return False
        return True

    async def _attempt(
        self, call: Call, replica: Replica, body: bytes, deadline: float
    ) -> Prediction:
        session = self._session
        if session is None:
            raise Unavailable("the gateway is starting")
        started = time.perf_counter()
        url = replica.url + call.path
        seconds = max(0.001, min(deadline - time.monotonic(), self._patience))
        trace = SimpleNamespace(sent=False)
        replica.in_flight += 1
        try:
            async with asyncio.timeout(seconds):
                async with session.post(url, data=body, trace_request_ctx=trace) as response:
                    content = await response.read()
                    status, headers = response.status, response.headers
        except TimeoutError:
            raise _Retry(
                f"{url} did not answer in time",
                SKIP_SECONDS,
                whole=True,
                unreached=not trace.sent,
                # With little time left, running out of it says little.
                hung=seconds > self._patience / 2,
            ) from None
        except aiohttp.ClientError as error:
            raise _Retry(
                f"{url}: {error}", SKIP_SECONDS, whole=True, unreached=not trace.sent
            ) from None
        finally:
            replica.in_flight -= 1
        if status != 200:
            raise _error(url, read_refusal(status, content, headers.get("retry-after", "")))
        try:
            return call.read(content, time.perf_counter() - started)
        except NO_ANSWER as error:
            raise _Retry(
                f"{url} gave no usable answer: {error}", BUSY_SECONDS, about_text=True
            ) from None


def _tracing() -> aiohttp.TraceConfig:
    """Sets ``sent`` in a request's context once it begins to be sent over a connection."""

    async def sent(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        context.trace_request_ctx.sent = True

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(sent)
    return config


def _error(url: str, refusal: Refusal) -> Exception:
    """What to make of a refusal: another attempt, in which way, or none."""
    said = refusal.said(url)
    match refusal.meaning:
        case "refused":
            return ModelRefused(f"the model server refused the request: {refusal.detail}")
        case "busy":
            return _Retry(said, BUSY_SECONDS)
        case "fails":
            return _Retry(said, BUSY_SECONDS, about_text=True)
        case "not-loaded":
            again = SKIP_SECONDS if refusal.retry_after is None else refusal.retry_after
            return _Retry(said, SKIP_SECONDS, not_loaded=again)
        case "broken":
            return _Retry(said, SKIP_SECONDS, whole=True)
        case "absent" | "away":
            return _Retry(said, SKIP_SECONDS, unreached=refusal.meaning == "away")
