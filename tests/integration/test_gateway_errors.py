"""Whatever goes wrong at the gateway is said where OpenAI's clients look: in error.message."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_harness import (
    LABELS,
    TASK,
    FilePublisher,
    Gateway,
    client,
    eventually,
    held_server,
    split_event,
    started_gateway,
)

from flywheel import kinds
from flywheel.gateway.app import create_app
from flywheel.gateway.auth import Keys
from flywheel.gateway.capture import Capture
from flywheel.gateway.forward import ModelServers
from flywheel.gateway.limits import SourceLimits
from flywheel.gateway.spill import SpillLog
from flywheel.gateway.splits import Splits
from flywheel.monitoring.http_server import HttpServer


def said(answer: httpx.Response) -> str:
    """What a client shows of an error."""
    assert answer.status_code >= 400
    error = answer.json()["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    return error["message"]


@pytest.fixture(scope="module")
def gate(champion: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("errors")
    with started_gateway(folder, [champion], split=split_event("r1")) as gate:
        yield gate


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/v1/embeddings", 404),
        ("POST", "/v1/responses", 404),
        ("POST", "/chat/completions", 404),
        ("GET", "/v1/models/gpt-4o", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/classify", 405),
        ("PATCH", "/v1/feedback", 405),
        ("OPTIONS", "/v1/models", 405),
        ("BREW", "/v1/models", 400),
        ("DELETE", "/healthz", 405),
        ("POST", "/docs", 405),
    ],
)
def test_what_is_not_answered_is_named(gate: Gateway, method: str, path: str, status: int) -> None:
    answer = gate.http.request(method, path, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    message = said(answer)
    if status in (404, 405) and "gpt-4o" not in path:
        assert f"{method} {path}" in message


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"model": 1}', b'{"task": "t"}', b"x" * 300_000],
)
@pytest.mark.parametrize("path", ["chat/completions", "classify", "feedback"])
def test_every_body_that_is_refused_is_told_why(gate: Gateway, path: str, content: bytes) -> None:
    said(gate.http.post(f"/v1/{path}", content=content))


@pytest.mark.parametrize(
    "sent",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 40_000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
)
def test_what_is_no_request_is_told_so(gate: Gateway, sent: bytes) -> None:
    url = gate.http.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        connection.sendall(sent)
        raw = b""
        while piece := connection.recv(65536):
            raw += piece
            if b"\r\n\r\n" in raw and raw.endswith(b"}"):
                break
    head, _, body = raw.partition(b"\r\n\r\n")
    said(httpx.Response(int(head.split()[1]), content=body))


def test_limits_keys_and_absent_releases_say_so(champion: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "keys": Keys(["s3cret"]),
        "source_limits": SourceLimits(0.001, burst=1),
        "metrics_keys": ("watching",),
    }
    with started_gateway(tmp_path, [champion], **options) as gate:
        assert "key" in said(gate.classify("Who?"))
        assert "key" in said(gate.http.get("/metrics"))
        gate.http.headers["Authorization"] = "Bearer s3cret"
        assert "no release serves" in said(gate.classify("Who?"))
        assert gate.classify("Who?").status_code == 429
        said(gate.classify("Who?"))


def test_health_says_what_is_wrong(champion: str, tmp_path: Path) -> None:
    with started_gateway(tmp_path, [champion], checks={"disk": lambda: "it is full"}) as gate:
        answer = gate.http.get("/healthz")
        assert answer.status_code == 503
        assert said(answer) == "disk: it is full"
        assert answer.json()["checks"]["disk"] == "it is full"


def test_a_fault_of_ours_says_where_to_look(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("flywheel.gateway.app.chat_response", broken)
    chat = {"model": TASK, "messages": [{"role": "user", "content": "Who?"}]}
    answer = gate.http.post("/v1/chat/completions", json=chat)
    assert answer.status_code == 500
    assert "log of this process" in said(answer)
    # The server closes it: a client that kept it would have its next request cut off.
    assert answer.headers["connection"] == "close"


def test_a_request_that_the_end_of_the_process_cuts_off_is_told_so(tmp_path: Path) -> None:
    splits = Splits()
    splits.update(split_event("r1"))
    splits.mark_caught_up()
    with held_server() as (url, go):
        app = create_app(
            tasks={TASK: kinds.TaskKind.of(kinds.of("classification"), LABELS)},
            splits=splits,
            servers=ModelServers([url], 20.0),
            capture=Capture(SpillLog(tmp_path / "spill"), FilePublisher(tmp_path / "published")),
        )
        server = HttpServer(app, "127.0.0.1", 0, grace_seconds=1.0)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        eventually(lambda: server.started)
        answers: list[httpx.Response] = []
        body = {"task": TASK, "text": "Who holds?"}

        def ask() -> None:
            with client(f"http://127.0.0.1:{server.port}") as http:
                answers.append(http.post("/v1/classify", json=body))

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: _in_flight(server))
        server.stop()
        asking.join(20)
        go.set()
        thread.join(20)
    [answer] = answers
    assert answer.status_code == 500
    assert "cut off" in said(answer)


def _in_flight(server: HttpServer) -> bool:
    return bool(server._server.server_state.tasks)
