"""/healthz and /metrics for every process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from threading import Thread

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from flywheel.contracts.addresses import own_names
from flywheel.errors import Unauthorised
from flywheel.monitoring.bearer import AcceptedKeys, bearer
from flywheel.monitoring.foreign_pages import ForeignPages
from flywheel.monitoring.http_server import HttpServer
from flywheel.monitoring.problems import install_problem_details, openai_error
from flywheel.monitoring.threads import threads_problem

Checks = Mapping[str, Callable[[], str | None]]


def run_checks(checks: Checks) -> tuple[int, bytes]:
    """(HTTP status, JSON body): 200 when every check returns None, else 503 with the reasons.

    A thread of this process that ended is one of them, whoever's it is.
    """
    if threads_problem() is not None:
        checks = {**checks, "threads": threads_problem}
    results: dict[str, str] = {}
    healthy = True
    for name, check in checks.items():
        try:
            problem = check()
        except Exception as error:  # noqa: BLE001 - a check that fails is a finding
            problem = f"{type(error).__name__}: {error}"
        healthy = healthy and problem is None
        results[name] = problem or "ok"
    body: dict[str, object] = {"status": "ok" if healthy else "failing", "checks": results}
    if not healthy:
        said = "; ".join(f"{name}: {result}" for name, result in results.items() if result != "ok")
        body["error"] = openai_error("unhealthy", said)
    return (200 if healthy else 503), json.dumps(body).encode()


def metrics_response() -> Response:
    """Every metric of this process in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def health_routes(app: FastAPI, checks: Checks, keys: Sequence[str] = ()) -> None:
    """Add /healthz and /metrics to a web app; /metrics asks for one of ``keys``, if any."""
    accepted = AcceptedKeys(keys)

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> Response:
        status, body = run_checks(checks)
        return Response(body, status, media_type="application/json")

    @app.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        if accepted and not accepted.accept(bearer(request.headers)):
            raise Unauthorised("send the key for metrics (FLYWHEEL_METRICS_KEY) as a bearer token")
        return metrics_response()


class HealthServer:
    """/healthz and /metrics on a thread, for processes that serve nothing else."""

    def __init__(self, host: str, port: int, checks: Checks, keys: Sequence[str] = ()) -> None:
        app = FastAPI(title="Flywheel health", openapi_url=None)
        install_problem_details(app)
        app.add_middleware(ForeignPages, names=own_names(host, keys=False))
        health_routes(app, checks, keys)
        self._server = HttpServer(
            app, host, port, setting="port under [monitoring]", grace_seconds=1.0
        )
        self._thread = Thread(target=self._server.run, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port in use (asked for as 0, it is the one the system gave)."""
        return self._server.port

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and release the port."""
        self._server.stop()
        self._thread.join()
