"""A model server's HTTP interface, shaped like vLLM's, whichever engine answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import Counter, Histogram

from flywheel.contracts.addresses import LOOPBACK_NAMES
from flywheel.contracts.ids import new_id
from flywheel.contracts.invisible import is_blank
from flywheel.contracts.model_server import CHAT_PATH, CLASSIFY_PATH, MODELS_PATH
from flywheel.errors import FlywheelError, RequestError
from flywheel.monitoring.bodies import read_body
from flywheel.monitoring.foreign_pages import ForeignPages
from flywheel.monitoring.health import health_routes
from flywheel.monitoring.problems import install_problem_details
from flywheel.serving.batching import Batcher
from flywheel.serving.engine import Classified, Classifier, Generated, generates
from flywheel.serving.releases import ReleaseSet

_requests = Counter("flywheel_serving_requests_total", "Requests by status.", ("status",))
_latency = Histogram(
    "flywheel_serving_latency_seconds",
    "From arrival to answer.",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1),
)
_texts_cut = Counter(
    "flywheel_serving_texts_cut_total", "Texts that were longer than their release reads."
)
_encode = msgspec.json.Encoder().encode
MAX_BODY_BYTES = 8 << 20


class _Classify(msgspec.Struct):
    model: str
    input: str | list[str]


class _Message(msgspec.Struct):
    role: str
    content: str


class _Chat(msgspec.Struct):
    model: str
    messages: list[_Message]


Body = TypeVar("Body", _Classify, _Chat)


def create_app(
    *,
    releases: ReleaseSet,
    max_batch: int = 16,
    max_wait_ms: float = 2.0,
    queue_size: int = 256,
    max_queue_seconds: float = 8.0,
    load_seconds: float = 8.0,
    checks: Mapping[str, Callable[[], str | None]] | None = None,
    names: frozenset[str] | None = LOOPBACK_NAMES,
    metrics_keys: Sequence[str] = (),
) -> FastAPI:
    """A model server over ``releases``, which the caller starts and stops.

    ``names`` are those that it answers to (None: to any); /metrics asks for one of
    ``metrics_keys``, if there are any. A request for a release that is not loaded waits so many
    ``load_seconds`` for it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher = Batcher(
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            queue_size=queue_size,
            max_queue_seconds=max_queue_seconds,
        )
        app.state.endpoints = _Endpoints(releases, batcher, load_seconds)
        yield
        await batcher.stop()

    # vLLM's documentation describes these routes; there is no schema of our own to serve.
    app = FastAPI(title="Flywheel model server", lifespan=lifespan, openapi_url=None)
    install_problem_details(app)
    app.add_middleware(ForeignPages, names=names)
    app.add_route(CLASSIFY_PATH, _classify, methods=["POST"])
    app.add_route(CHAT_PATH, _chat, methods=["POST"])
    app.add_route(MODELS_PATH, _models, methods=["GET"])
    app.add_route("/health", _health, methods=["GET"])
    health_routes(app, {"releases": releases.problem, **(checks or {})}, metrics_keys)
    return app


class _Endpoints:
    def __init__(self, releases: ReleaseSet, batcher: Batcher, load_seconds: float) -> None:
        self._releases = releases
        self._load_seconds = load_seconds
        self._batcher = batcher

    async def classify(self, request: Request) -> dict[str, object]:
        body = _parse(_Classify, await read_body(request, MAX_BODY_BYTES))
        texts = [body.input] if isinstance(body.input, str) else body.input
        if not texts:
            raise RequestError("input: at least one text is needed")
        await self._releases.loaded(body.model, self._load_seconds)
        with self._releases.using(body.model) as served:
            if generates(served):
                raise RequestError(
                    f"{body.model} generates text and knows no labels: ask {CHAT_PATH}"
                )
            answers = await self._classified(served, texts)
        _count_cut([answer.tokens_cut for answer in answers])
        tokens_in = sum(answer.tokens_in for answer in answers)
        return {
            "id": f"classify-{new_id()}",
            "object": "list",
            "created": int(time.time()),
            "model": body.model,
            "data": [_classification(index, item) for index, item in enumerate(answers)],
            "usage": {"prompt_tokens": tokens_in, "total_tokens": tokens_in},
        }

    async def chat(self, request: Request) -> dict[str, object]:
        body = _parse(_Chat, await read_body(request, MAX_BODY_BYTES))
        texts = [m.content for m in body.messages if m.role == "user"][-1:]
        if not texts:
            raise RequestError("messages: there is no message with role 'user'")
        extra: dict[str, object] = {}
        choice: dict[str, object] = {"index": 0, "finish_reason": "stop"}
        await self._releases.loaded(body.model, self._load_seconds)
        with self._releases.using(body.model) as served:
            if generates(served):
                _refuse_blank(texts)
                generated = (await self._batcher.generate(served, texts))[0]
                content, cut = generated.text, generated.tokens_cut
                choice["confidence"] = generated.confidence
                extra["usage"] = _usage(generated)
            else:
                [answer] = await self._classified(served, texts)
                content, cut = max(answer.scores, key=answer.scores.__getitem__), answer.tokens_cut
        _count_cut([cut])
        choice["tokens_cut"] = cut
        choice["message"] = {"role": "assistant", "content": content}
        return {
            "id": f"chatcmpl-{new_id()}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body.model,
            "choices": [choice],
            **extra,
        }

    def models(self) -> dict[str, object]:
        statuses = self._releases.statuses()
        return {
            "object": "list",
            "data": [
                {
                    "id": status.release,
                    "object": "model",
                    "created": status.loaded_at,
                    "owned_by": "flywheel",
                    "kind": status.kind,
                    "labels": status.labels,
                }
                for status in statuses
                if status.state == "ready"
            ],
            "unavailable": [
                {"id": status.release, "status": status.state, "reason": status.reason}
                for status in statuses
                if status.state != "ready"
            ],
        }

    async def _classified(self, classifier: Classifier, texts: list[str]) -> list[Classified]:
        _refuse_blank(texts)
        return await self._batcher.classify(classifier, texts)


def _refuse_blank(texts: list[str]) -> None:
    for index, text in enumerate(texts):
        if is_blank(text):
            raise RequestError(f"input: text {index} is empty")


def _usage(generated: Generated) -> dict[str, int]:
    return {
        "prompt_tokens": generated.tokens_in,
        "completion_tokens": generated.tokens_out,
        "total_tokens": generated.tokens_in + generated.tokens_out,
    }


def _count_cut(tokens_cut: Sequence[int]) -> None:
    cut = sum(tokens > 0 for tokens in tokens_cut)
    if cut:
        _texts_cut.inc(cut)


def _classification(index: int, answer: Classified) -> dict[str, object]:
    scores = answer.scores
    labels = list(scores)
    return {
        "index": index,
        "label": max(labels, key=scores.__getitem__),
        "probs": list(scores.values()),
        "labels": labels,
        "num_classes": len(labels),
        "tokens_cut": answer.tokens_cut,
    }


def _endpoints(request: Request) -> _Endpoints:
    endpoints: _Endpoints = request.app.state.endpoints
    return endpoints


async def _classify(request: Request) -> Response:
    return await _timed(_endpoints(request).classify, request)


async def _chat(request: Request) -> Response:
    return await _timed(_endpoints(request).chat, request)


async def _models(request: Request) -> Response:
    return Response(_encode(_endpoints(request).models()), media_type="application/json")


async def _health(_request: Request) -> Response:
    return Response()


async def _timed(
    answer: Callable[[Request], Awaitable[dict[str, object]]], request: Request
) -> Response:
    started = time.perf_counter()
    try:
        body = await answer(request)
    except FlywheelError as error:
        _requests.labels(str(error.status)).inc()
        raise
    _latency.observe(time.perf_counter() - started)
    _requests.labels("200").inc()
    return Response(_encode(body), media_type="application/json")


def _parse(kind: type[Body], body: bytes) -> Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body is not as expected: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
