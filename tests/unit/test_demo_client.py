"""The demo's client: what it tries again, and what it gives up at."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from flywheel.demo.client import Client
from flywheel.demo.data import Question
from flywheel.demo.traffic import MOST_WAITING, Traffic
from flywheel.errors import Unavailable


@contextmanager
def answering(*statuses: int) -> Iterator[tuple[str, list[str]]]:
    """A server that answers with these, the last one for ever; and the sample ids it was sent."""
    left, samples = list(statuses), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            samples.append(self.headers["X-Flywheel-Sample-Id"])
            content = json.dumps({"label": "a", "detail": "not now"}).encode()
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", samples
        finally:
            server.shutdown()
            thread.join()


def classified(url: str, failures: list[str]) -> dict[str, object]:
    async def run() -> dict[str, object]:
        async with httpx.AsyncClient(trust_env=False) as http:
            client = Client(http, url, url)
            return await client.classify("t", "Who?", "ada", "s-1", failures.append)

    return asyncio.run(run())


def test_a_server_that_comes_back_is_asked_again_with_the_same_sample() -> None:
    failures: list[str] = []
    with answering(503, 429, 200) as (url, samples):
        assert classified(url, failures)["label"] == "a"
    assert samples == ["s-1"] * 3
    assert [failure[:3] for failure in failures] == ["503", "429"]


def test_what_is_refused_is_not_asked_again() -> None:
    failures: list[str] = []
    with answering(400) as (url, samples), pytest.raises(Unavailable, match=r"400.*not now"):
        classified(url, failures)
    assert samples == ["s-1"]
    assert len(failures) == 1


def test_nobody_there_is_given_up_in_the_end() -> None:
    async def run(url: str) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            await Client(http, url, url).call("GET", f"{url}/x", patience=0.0)

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="ConnectError"):
            asyncio.run(run(f"http://127.0.0.1:{unused.getsockname()[1]}"))


async def test_a_slow_server_is_asked_no_more_than_so_many_at_a_time() -> None:
    waiting, most, asked = 0, 0, 0
    full, many, answer = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_: httpx.Request) -> httpx.Response:
        nonlocal waiting, most, asked
        waiting, asked = waiting + 1, asked + 1
        most = max(most, waiting)
        if waiting == MOST_WAITING:
            full.set()
        if asked == 3 * MOST_WAITING:
            many.set()
        await answer.wait()
        waiting -= 1
        return httpx.Response(200, json={"label": "a"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(slow)) as http:
        client = Client(http, "http://gateway", "http://console")
        traffic = Traffic(client, "t", [Question("Who?", "a")], rate=10_000.0)
        sending = asyncio.create_task(traffic.run())
        await full.wait()
        await asyncio.sleep(0.2)
        assert (traffic.sent, most) == (MOST_WAITING, MOST_WAITING)
        answer.set()
        await many.wait()
        await traffic.drain()
        sending.cancel()
    assert most == MOST_WAITING
    assert traffic.failures == []
