"""The model servers' port over real HTTP: what counts as answering, and what is said if not."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from flywheel.rollout.servers import PolledServers
from flywheel.serving.client import probes


class ModelServer:
    """A server that speaks the model servers' protocol; tests set what it has loaded."""

    def __init__(self, *loaded: str) -> None:
        self.loaded = list(loaded)
        self.classify: tuple[int, object] | None = None
        self.asked = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, {"data": [{"id": release} for release in server.loaded]})

            def do_POST(self) -> None:
                server.asked += 1
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                item = {"index": 0, "label": "a", "probs": [0.9, 0.1], "labels": ["a", "b"]}
                self._answer(*(server.classify or (200, {"model": body["model"], "data": [item]})))

            def _answer(self, status: int, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[ModelServer]:
        thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., ModelServer]]:
    with ExitStack() as stack:
        yield lambda *loaded: stack.enter_context(ModelServer(*loaded).running())


def test_all_answer(serve: Callable[..., ModelServer]) -> None:
    a, b = serve("r1", "r2"), serve("r1", "r2")
    found = PolledServers(probes([a.url, b.url + "/"])).ready("r2")
    assert (found.ready, found.total, found.reason) == (2, 2, "")
    assert (a.asked, b.asked) == (1, 1), "a real request was made of each"


def test_a_full_yes_is_remembered_for_a_while_and_a_no_is_not(
    serve: Callable[..., ModelServer],
) -> None:
    server = serve()
    servers = PolledServers(probes([server.url]), remember=1000)
    assert servers.ready("r1").ready == 0
    server.loaded.append("r1")
    assert servers.ready("r1").ready == 1
    server.loaded.clear()
    assert servers.ready("r1").ready == 1
    forgetful = PolledServers(probes([server.url]), remember=0)
    assert forgetful.ready("r1").ready == 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {}), "answered 404"),
        ((500, {}), "answered 500"),
        ((200, {"data": []}), "something else than expected"),
        ((200, {"data": [{"label": "", "probs": [], "labels": []}]}), "without a label"),
        ((200, []), "something else than expected"),
    ],
)
def test_a_listed_release_that_does_not_answer_is_not_ready(
    serve: Callable[..., ModelServer], answer: tuple[int, object], said: str
) -> None:
    server = serve("r1")
    server.classify = answer
    found = PolledServers(probes([server.url])).ready("r1")
    assert found.ready == 0
    assert said in found.reason


def test_not_loaded_and_not_there(serve: Callable[..., ModelServer]) -> None:
    server = serve("r1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        found = PolledServers(probes([server.url, nobody])).ready("r2")
    assert (found.ready, found.total) == (0, 2)
    assert f"{server.url} has not loaded it" in found.reason
    assert "refused" in found.reason
    assert PolledServers(probes([])).ready("r2").reason == "no model server is configured"
