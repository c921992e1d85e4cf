"""What clients without a key can take of a listener: real sockets against real servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response
from gateway_harness import client, eventually, running

from flywheel.monitoring.bodies import BoundedBodies, read_body
from flywheel.monitoring.connections import ConnectionLimits
from flywheel.monitoring.health import HealthServer
from flywheel.monitoring.http_server import HttpServer
from flywheel.monitoring.problems import install_problem_details

PATIENCE = 20.0


def app(held: threading.Event | None = None) -> FastAPI:
    app = FastAPI()
    install_problem_details(app)

    @app.get("/")
    def home() -> Response:
        return Response("home")

    @app.get("/held")
    def hold() -> Response:
        assert held is not None
        held.wait(PATIENCE)
        return Response("held")

    async def size(request: Request) -> Response:
        return Response(str(len(await read_body(request, 1000))))

    app.add_route("/size", size, methods=["POST"])

    @app.get("/large")
    def large() -> Response:
        return Response(b"x" * (32 << 20))

    return app


@contextmanager
def served(held: threading.Event | None = None, **limits: float) -> Iterator[tuple[str, int]]:
    server = HttpServer(
        app(held),
        "127.0.0.1",
        0,
        grace_seconds=1.0,
        limits=ConnectionLimits(**limits),  # type: ignore[arg-type]
    )
    with running(server) as url:
        yield url, server.port


def opened(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.sendall(data)
    return connection


def said(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_a_head_larger_than_its_limit_is_refused() -> None:
    with served(head_bytes=4096) as (url, port), client(url) as http:
        assert http.get("/", headers={"x-long": "a" * 3000}).status_code == 200
        for head in (
            b"GET / HTTP/1.1\r\nHost: x\r\nx-long: " + b"a" * 5000,
            b"GET /?" + b"a" * 5000,
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000,
            b"\r\n" * 3000,
        ):
            with opened(port, head) as connection:
                answer = said(connection)
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert b"application/problem+json" in answer
            assert b'"error": {"message": "the head is larger' in answer


def test_the_limit_of_heads_says_nothing_of_bodies_and_later_requests() -> None:
    with served(head_bytes=600) as (_url, port), opened(port) as connection:
        post = b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n" + b"b" * 900
        last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(post * 5 + last)
        answer = said(connection)
        assert answer.count(b"HTTP/1.1 200 ") == 6
        assert answer.endswith(b"home")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"HTTP/1.1 408 "),
        (b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 "),
    ],
    ids=["nothing", "an empty line", "half a head", "half a body", "no second request"],
)
def test_a_client_that_stops_sending_loses_its_connection(sent: bytes, answer: bytes) -> None:
    limits = {"head_seconds": 0.2, "body_seconds": 0.2, "idle_seconds": 0.2}
    with served(**limits) as (url, port), opened(port, sent) as connection:
        assert said(connection).startswith(answer)
        with client(url) as http:
            assert http.get("/").text == "home"


def test_a_client_that_sends_a_little_at_a_time_is_not_waited_for() -> None:
    with served(head_seconds=0.3) as (_url, port), opened(port) as connection:

        def closed() -> bool:
            try:
                connection.sendall(b"\r\n")
            except OSError:
                return True
            return False

        eventually(closed)


def test_a_client_that_does_not_read_its_answer_loses_its_place() -> None:
    with served(write_seconds=0.2, connections=1) as (url, port), opened(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(1)
        eventually(lambda: answers(url))


def test_a_client_that_reads_no_answer_and_asks_on_makes_room_for_others() -> None:
    with served(connections=1) as (url, port), opened(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        connection.recv(1)
        eventually(lambda: answers(url), 10)


def test_few_requests_wait_on_one_connection() -> None:
    held = threading.Event()
    ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    hold = ask.replace(b"/ ", b"/held ", 1)
    with served(held) as (url, port):
        with opened(port, hold + ask * 40) as connection:
            assert said(connection) == b""
        with opened(port, ask + hold + ask * 10) as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
            # The rest is read when those before it are answered.
            connection.sendall(ask * 10 + ask[:-2] + b"Connection: close\r\n\r\n")
            held.set()
            assert said(connection).count(b"HTTP/1.1 200 ") == 22
        assert answers(url)


CHUNKED = b"POST /size HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"0\r\n" + b"a: b\r\n" * 500, b"a: b\r\n"),
        (b"0\r\n", b"a: " + b"b" * 2000),
        (b"", b"1;" + b"a" * 2000),
    ],
    ids=["many trailers", "a long trailer", "a long extension"],
)
def test_what_is_beside_a_chunked_body_is_bounded(first: bytes, then: bytes) -> None:
    with served(head_bytes=600) as (url, port):
        with opened(port, CHUNKED + first) as connection:
            for start in range(0, len(then), 500):
                try:
                    connection.sendall(then[start : start + 500])
                except OSError:
                    break
            assert said(connection).startswith(b"HTTP/1.1 431 ")
        last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        with opened(port, CHUNKED + b"0\r\na: b\r\n\r\n" + last) as connection:
            assert said(connection).count(b"HTTP/1.1 200 ") == 2
        assert answers(url)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_body_beside_an_offer_to_upgrade_is_read(framing: str) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    post = b"POST /size HTTP/1.1\r\nHost: x\r\n" + offer
    body = {
        "length": b"Content-Length: 900\r\n\r\n" + b"b" * 900,
        "chunks": b"Transfer-Encoding: chunked\r\n\r\n384\r\n" + b"b" * 900 + b"\r\n0\r\n\r\n",
    }[framing]
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with served() as (_url, port):
        with opened(port, (post + body) * 2 + last) as connection:
            answer = said(connection)
            assert answer.count(b"\r\n\r\n900") == 2
            assert answer.endswith(b"home")
        with opened(port, post) as connection:
            connection.sendall(body + last)
            assert b"\r\n\r\n900" in said(connection)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=PATIENCE, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_idle_connections_shut_nobody_out() -> None:
    with served(connections=20) as (url, port), ExitStack() as stack:
        idle = [stack.enter_context(opened(port)) for _ in range(60)]
        half = [stack.enter_context(opened(port, b"GET / HT")) for _ in range(60)]
        for _ in range(3):
            assert httpx.get(url, timeout=PATIENCE, trust_env=False).text == "home"
        # Those that waited longest made room.
        assert said(idle[0]) == said(half[0]) == b""


def test_requests_being_answered_are_left_alone() -> None:
    held = threading.Event()
    ask = b"GET /held HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with served(held, connections=4) as (url, port), ExitStack() as stack:
        asking = [stack.enter_context(opened(port, ask)) for _ in range(4)]

        def full() -> bool:
            try:
                answer = httpx.get(url, timeout=PATIENCE, trust_env=False)
            except httpx.TransportError:
                return False
            return answer.status_code == 503 and answer.headers["retry-after"] == "1"

        eventually(full)
        held.set()
        assert all(said(one).endswith(b"held") for one in asking)
        assert httpx.get(url, timeout=PATIENCE, trust_env=False).text == "home"


def test_the_health_server_is_bounded_alike() -> None:
    server = HealthServer("127.0.0.1", 0, {"loop": lambda: None})
    server.start()
    try:
        with opened(server.port, b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000) as connection:
            assert said(connection).startswith(b"HTTP/1.1 431 ")
        url = f"http://127.0.0.1:{server.port}"
        with client(url) as http:
            assert http.get("/healthz").json() == {"status": "ok", "checks": {"loop": "ok"}}
            assert "python_info" in http.get("/metrics").text
            assert http.get("/nowhere").headers["content-type"] == "application/problem+json"
    finally:
        server.stop()
    with pytest.raises(ConnectionRefusedError):
        opened(server.port)


def test_the_health_servers_metrics_may_ask_for_a_key() -> None:
    server = HealthServer("127.0.0.1", 0, {}, keys=("watching",))
    server.start()
    try:
        with client(f"http://127.0.0.1:{server.port}") as http:
            assert http.get("/healthz").status_code == 200
            assert http.get("/metrics").status_code == 401
            http.headers["Authorization"] = "Bearer watching"
            assert http.get("/metrics").status_code == 200
    finally:
        server.stop()


def test_a_body_beyond_its_bound_is_not_read() -> None:
    bounded = app()
    bounded.add_middleware(BoundedBodies, most_bytes=1000)
    with running(HttpServer(bounded, "127.0.0.1", 0)) as url, client(url) as http:
        assert http.post("/size", content=b"a" * 1000).text == "1000"
        assert http.post("/size", content=b"a" * 1001).status_code == 413
        endless = (b"a" * 1000 for _ in range(3))
        assert http.post("/size", content=endless).status_code == 413
