"""The gateway's HTTP interface: OpenAI-compatible, and a plain one for classification.

Which of the two a task has is its kind's to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from flywheel.contracts.addresses import LOOPBACK_NAMES
from flywheel.contracts.events import LabelRecorded
from flywheel.contracts.ids import utc_now
from flywheel.contracts.model_server import CLASSIFY, GENERATE, Call
from flywheel.contracts.sample import Content
from flywheel.errors import FlywheelError, NoModel, NotFound, RequestError, Unavailable
from flywheel.gateway.answer import Answered, Answers, Ask, accepted
from flywheel.gateway.auth import Caller, Keys
from flywheel.gateway.capture import Capture
from flywheel.gateway.config import GatewayLimits
from flywheel.gateway.forward import ModelServers
from flywheel.gateway.limits import SourceLimits
from flywheel.gateway.metrics import count_refused, observe
from flywheel.gateway.openapi import openapi
from flywheel.gateway.parameters import check_parameters
from flywheel.gateway.requests import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResponse,
    FeedbackRequest,
    SampleRequest,
    chat_chunks,
    chat_response,
    check_content,
    check_id,
    parse,
)
from flywheel.gateway.sample_ids import SAMPLE_HEADER, SampleIds, naming_headers, sample_name
from flywheel.gateway.shadow import Shadow
from flywheel.gateway.splits import Splits
from flywheel.kinds import Answers as PossibleAnswers
from flywheel.kinds import TaskKind
from flywheel.kinds.reading import Image
from flywheel.monitoring.bodies import read_body
from flywheel.monitoring.connections import client_gone
from flywheel.monitoring.docs_page import docs_routes
from flywheel.monitoring.foreign_pages import ForeignPages
from flywheel.monitoring.headers import header_value
from flywheel.monitoring.health import health_routes
from flywheel.monitoring.problems import install_problem_details, problem_of

_encode = msgspec.json.Encoder().encode
_CALLS: Mapping[str, Call] = {"label": CLASSIFY, "text": GENERATE}

# Keeps an image's bytes under their digest, once; blocks. Raises ArtefactError.
KeepImage = Callable[[bytes], object]


def _no_store(_data: bytes) -> object:
    raise Unavailable("no object store is configured for images")


def create_app(
    *,
    tasks: Mapping[str, TaskKind],
    splits: Splits,
    servers: ModelServers,
    capture: Capture,
    keys: Keys | None = None,
    source_limits: SourceLimits | None = None,
    limits: GatewayLimits | None = None,
    checks: Mapping[str, Callable[[], str | None]] | None = None,
    names: frozenset[str] | None = LOOPBACK_NAMES,
    metrics_keys: Sequence[str] = (),
    keep_image: KeepImage = _no_store,
) -> FastAPI:
    """The gateway over what it is given. ``names`` are those that it answers to while
    there are no keys (None: to any); /metrics asks for one of ``metrics_keys``, if there are any.

    The app opens ``servers`` and starts ``capture`` with its lifespan, and closes both at the end:
    shadow copies first, then the spill log.
    """
    limits = limits or GatewayLimits()
    shadow = Shadow(
        servers, capture, concurrency=limits.shadow_concurrency, queue_size=limits.shadow_queue
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await servers.open()
        capture.start()
        shadow.start()
        yield
        await shadow.stop(limits.drain_seconds)
        await servers.close()
        capture.close(limits.drain_seconds)

    app = FastAPI(title="Flywheel gateway", lifespan=lifespan, docs_url=None, redoc_url=None)
    install_problem_details(app)
    app.add_exception_handler(FlywheelError, _counted_problem)
    endpoints = _Endpoints(
        tasks=tasks,
        answers=Answers(splits, servers, capture, shadow),
        capture=capture,
        keys=keys or Keys(),
        source_limits=source_limits,
        limits=limits,
        keep_image=keep_image,
    )
    # Plain routes: FastAPI's dependency resolution would cost more than the rest of the gateway.
    app.add_route("/v1/chat/completions", endpoints.chat, methods=["POST"])
    app.add_route("/v1/classify", endpoints.classify, methods=["POST"])
    app.add_route("/v1/samples", endpoints.samples, methods=["POST"])
    app.add_route("/v1/feedback", endpoints.feedback, methods=["POST"])
    app.add_route("/v1/models", endpoints.models, methods=["GET"])
    app.add_route("/v1/models/{model:path}", endpoints.model, methods=["GET"])
    app.add_middleware(ForeignPages, names=names)
    app.openapi = partial(openapi, bool(metrics_keys))  # type: ignore[method-assign]
    docs_routes(app)
    own_checks = {"splits": splits.problem, "capture": capture.problem}
    health_routes(app, {**own_checks, **(checks or {})}, metrics_keys)
    return app


class _Endpoints:
    def __init__(
        self,
        *,
        tasks: Mapping[str, TaskKind],
        answers: Answers,
        capture: Capture,
        keys: Keys,
        source_limits: SourceLimits | None,
        limits: GatewayLimits,
        keep_image: KeepImage,
    ) -> None:
        self._tasks = tasks
        self._answers = answers
        self._capture = capture
        self._keys = keys
        self._source_limits = source_limits
        self._limits = limits
        self._keep_image = keep_image
        # Which task it is for stands in the body.
        kinds = [task.kind for task in tasks.values()]
        self._largest_body = max(limits.max_body_bytes, *(kind.largest_body for kind in kinds))
        self._sample_ids = SampleIds()
        self._started = int(time.time())

    async def chat(self, request: Request) -> Response:
        received = time.perf_counter()
        caller = self._admit(request)
        raw = await read_body(request, self._largest_body)
        body = parse(ChatRequest, raw)
        task = self._task(body.model, "model")
        if task.kind.note:
            raise NoModel(f"task {body.model!r}: {task.kind.note}", "model")
        prompt = task.kind.read(body.messages)
        wanted = check_parameters(task.answers, raw)
        ask = self._ask(
            request,
            caller,
            raw,
            task=body.model,
            content=prompt.content,
            user=body.user,
            received=received,
        )
        await self._keep(prompt.images)
        answered = await self._answers.answer(ask)
        release, prediction = answered.variant.release, answered.prediction
        if body.stream:
            chunks = chat_chunks(task.answers, ask.sample_id, release, prediction, wanted)
            return _response(chunks, ask, answered, "text/event-stream")
        whole = chat_response(task.answers, ask.sample_id, release, prediction, wanted)
        return _response(_encode(whole), ask, answered, "application/json")

    async def classify(self, request: Request) -> Response:
        received = time.perf_counter()
        caller = self._admit(request)
        raw = await read_body(request, self._limits.max_body_bytes)
        body = parse(ClassifyRequest, raw)
        if why := self._task(body.task).kind.no_classify:
            raise RequestError(
                f"task {body.task!r} {why}. Ask POST "
                f'/v1/chat/completions with {{"model": "{body.task}", "messages": '
                '[{"role": "user", "content": "…"}]}'
            )
        ask = self._ask(
            request,
            caller,
            raw,
            task=body.task,
            content=body.text,
            user=body.user,
            received=received,
        )
        answered = await self._answers.answer(ask)
        prediction = answered.prediction
        content = _encode(
            ClassifyResponse(
                sample_id=ask.sample_id,
                label=prediction.output,
                scores=prediction.scores,
                confidence=prediction.confidence,
                release=answered.variant.release,
                arm=answered.variant.arm,
                tokens_cut=prediction.tokens_cut,
            )
        )
        return _response(content, ask, answered, "application/json")

    async def samples(self, request: Request) -> Response:
        received = time.perf_counter()
        caller = self._admit(request)
        raw = await read_body(request, self._largest_body)
        body = parse(SampleRequest, raw)
        task = self._task(body.task)
        if not task.kind.note:
            raise RequestError(
                f"task {body.task!r} is answered by a model: ask POST /v1/chat/completions, which "
                "keeps what it answers"
            )
        prompt = task.kind.read(body.messages)
        ask = self._ask(
            request,
            caller,
            raw,
            task=body.task,
            content=prompt.content,
            user=body.user,
            received=received,
        )
        self._capture.ensure_room()
        await self._keep(prompt.images)
        self._capture.record(accepted(ask))
        await self._capture.durable()
        observe(body.task, None, 202, time.perf_counter() - received, 0.0)
        content = _encode({"sample_id": ask.sample_id})
        headers = {SAMPLE_HEADER: header_value(ask.sample_id)}
        return Response(content, 202, headers=headers, media_type="application/json")

    async def feedback(self, request: Request) -> Response:
        caller = self._admit(request)
        raw = await read_body(request, self._limits.max_body_bytes)
        body = parse(FeedbackRequest, raw)
        task = self._task(body.task)
        sample_id = sample_name("sample_id", body.sample_id)
        _check_answer(body.label, task.answers)
        annotator = body.annotator or caller.source
        check_id("annotator", annotator)
        headers = naming_headers(request.scope["headers"])
        said = "\x1f".join((body.task, sample_id, body.source, body.label))
        event_id = self._sample_ids.of_feedback(headers, caller, annotator, said, raw)
        self._capture.ensure_room()
        event = LabelRecorded(
            event_id=event_id,
            occurred_at=utc_now(),
            task=body.task,
            sample_id=sample_id,
            value=body.label,
            source=body.source,
            annotator=annotator,
        )
        self._capture.record(event)
        await self._capture.durable()
        content = _encode({"event_id": event.event_id, "sample_id": sample_id})
        return Response(content, 202, media_type="application/json")

    async def models(self, request: Request) -> Response:
        self._keys.identify(request.headers)
        data = [self._model(task) for task in self._tasks]
        return Response(_encode({"object": "list", "data": data}), media_type="application/json")

    async def model(self, request: Request) -> Response:
        self._keys.identify(request.headers)
        content = _encode(self._model(request.path_params["model"]))
        return Response(content, media_type="application/json")

    def _model(self, name: str) -> dict[str, object]:
        task = self._task(name, "model")
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "flywheel",
            "labels": task.answers.labels,
            **task.kind.listed,
        }

    async def _keep(self, images: Sequence[Image]) -> None:
        """Put images where every process finds them. Raises ArtefactError, which is retryable where
        the store is away: what names an image that is not there would be worth nothing."""
        for image in images:
            await asyncio.to_thread(self._keep_image, image.data)

    def _admit(self, request: Request) -> Caller:
        caller = self._keys.identify(request.headers, request.client.host if request.client else "")
        if self._source_limits is not None:
            self._source_limits.take(caller.limited_as)
        return caller

    def _task(self, task: str, param: str = "task") -> TaskKind:
        try:
            return self._tasks[task]
        except KeyError:
            known = ", ".join(sorted(self._tasks))
            raise NotFound(f"there is no task {task!r}; known: {known}", param) from None

    def _ask(
        self,
        request: Request,
        caller: Caller,
        raw: bytes,
        *,
        task: str,
        content: Content,
        user: str | None,
        received: float,
    ) -> Ask:
        call = _CALLS[self._task(task).answers.output]
        check_content(content, self._limits.max_text_chars)
        if user and user.isspace():
            user = None  # that names nobody, and would make one unit of all who send it
        if user:
            check_id("user", user)
        sample_id = self._sample_ids.of(
            naming_headers(request.scope["headers"]),
            caller,
            task=task,
            content=content,
            user=user,
            body=raw,
        )
        return Ask(
            task,
            call,
            content,
            sample_id,
            user or sample_id,
            caller.source,
            received,
            partial(client_gone, request.scope),
        )


def _check_answer(answer: str, answers: PossibleAnswers) -> None:
    """Raises RequestError for what cannot be the right answer of a task with these answers."""
    if not answers.knows(answer):
        raise RequestError(f"label: {answer!r} is none of {answers.described}")
    problem = answers.problem(answer)
    if problem:
        raise RequestError(f"label: {problem}")


def _response(content: bytes, ask: Ask, answered: Answered, media_type: str) -> Response:
    headers = {
        SAMPLE_HEADER: header_value(ask.sample_id),
        "x-flywheel-release": header_value(answered.variant.release),
        "x-flywheel-arm": answered.variant.arm or "",
    }
    return Response(content, headers=headers, media_type=media_type)


async def _counted_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, FlywheelError)  # noqa: S101 - registered for this type alone
    count_refused("", error.status)
    return problem_of(error)
