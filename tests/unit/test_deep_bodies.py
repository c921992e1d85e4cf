"""A body that is nested without end is refused like any other that is no request."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from flywheel.kinds import Choice
from flywheel.monitoring.problems import install_problem_details
from flywheel.review.app import router as review
from flywheel.review.config import ReviewSettings
from flywheel.rollout.app import router as rollouts
from flywheel.rollout.config import RolloutSettings
from flywheel.serving.app import create_app
from flywheel.serving.releases import ReleaseSet


def untouched() -> AbstractContextManager[Any]:
    raise AssertionError("the body was taken for a request")


def console() -> FastAPI:
    app = FastAPI()
    install_problem_details(app)
    app.include_router(review(untouched, {"topic": (Choice(("v", "w")), ReviewSettings())}))
    app.include_router(rollouts(untouched, untouched, {"topic": RolloutSettings()}))
    return app


def model_server() -> FastAPI:
    return create_app(releases=ReleaseSet(lambda _release: pytest.fail("nothing is loaded")))


@pytest.mark.parametrize("levels", [1_500, 100_000])
@pytest.mark.parametrize(
    ("app", "path"),
    [
        (console, "/api/review/topic/sample/answer"),
        (console, "/api/review/topic/undo"),
        (console, "/api/rollouts/topic/commands"),
        (model_server, "/classify"),
        (model_server, "/v1/chat/completions"),
    ],
)
def test_it_is_refused_with_a_problem_document(app: Any, path: str, levels: int) -> None:
    body = b'{"of_tomorrow":' + b"[" * levels + b"]" * levels + b"}"

    async def post() -> httpx.Response:
        served = app()
        transport = httpx.ASGITransport(served, raise_app_exceptions=False)
        async with (
            served.router.lifespan_context(served),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
        ):
            return await http.post(path, content=body, headers={"content-type": "application/json"})

    answer = asyncio.run(post())
    assert answer.status_code in (400, 422)
    assert answer.json()["status"] == answer.status_code
