"""What a call to the model servers comes to, by what each of them answers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flywheel.contracts.model_server import CLASSIFY
from flywheel.errors import ReleaseNotLoaded, Unavailable
from flywheel.gateway.circuits import OPEN_AFTER, PassedOver
from flywheel.gateway.forward import ModelServers
from flywheel.monitoring.problems import problem_document

WELL = json.dumps({"data": [{"probs": [0.2, 0.8], "labels": ["a", "b"]}]})
GONE = json.dumps(problem_document(503, "release-not-loaded", "x", "r1 failed to load: gone"))
LOADING = json.dumps(problem_document(503, "unavailable", "x", "r1 is loading"))


class Answer:
    """What a model server answers to everything; ``hangs`` until it is set free."""

    def __init__(self, status: int, body: str) -> None:
        self.status, self.body = status, body
        self.asked = 0
        self.free = threading.Event()
        self.free.set()


@contextmanager
def served(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(501)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer.asked += 1
            answer.free.wait(20)
            self.send_response(answer.status)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            answer.free.set()
            server.shutdown()


def asking(
    story: Callable[[ModelServers], Awaitable[None]], timeout: float, *answers: Answer
) -> None:
    """Run a story on model servers that answer so."""
    with ExitStack() as stack:
        urls = [stack.enter_context(served(answer)) for answer in answers]

        async def run() -> None:
            servers = ModelServers(urls, timeout)
            await servers.open()
            try:
                await asyncio.wait_for(story(servers), 15)
            finally:
                await servers.close()

        asyncio.run(run())


@pytest.mark.parametrize("replicas", [1, 3])
def test_what_no_replica_can_load_is_given_up_at_once(replicas: int) -> None:
    async def story(servers: ModelServers) -> None:
        for ask in (servers.ask, servers.ask_arm):
            with pytest.raises(
                ReleaseNotLoaded, match=r"no model server could load r1.*gone"
            ) as no:
                await ask(CLASSIFY, "r1", "Who?")
            assert no.value.retry_after == 7

    answers = [Answer(503, GONE) for _ in range(replicas)]
    asking(story, 60.0, *answers)
    assert [answer.asked for answer in answers] == [2] * replicas


def test_one_replica_that_has_it_answers() -> None:
    async def story(servers: ModelServers) -> None:
        for _ in range(4):
            assert (await servers.ask(CLASSIFY, "r1", "Who?")).output == "b"

    asking(story, 60.0, Answer(503, GONE), Answer(200, WELL))


def test_one_replica_that_may_get_it_is_waited_for() -> None:
    async def story(servers: ModelServers) -> None:
        with pytest.raises(
            Unavailable, match=r"no model server answered for r1 within 0\.3 s"
        ) as no:
            await servers.ask(CLASSIFY, "r1", "Who?")
        assert not isinstance(no.value, ReleaseNotLoaded)

    asking(story, 0.3, Answer(503, GONE), Answer(503, LOADING))


def test_an_arm_that_hangs_everywhere_is_passed_over_until_a_trial_is_answered() -> None:
    replicas = [Answer(200, WELL), Answer(200, WELL)]

    async def story(servers: ModelServers) -> None:
        for replica in replicas:
            replica.free.clear()
        for _ in range(OPEN_AFTER):
            with pytest.raises(Unavailable) as ran_out:
                await servers.ask_arm(CLASSIFY, "r2", "Who?")
            assert not isinstance(ran_out.value, PassedOver)
        for _ in range(50):
            with pytest.raises(PassedOver, match="r2 was not asked"):
                await servers.ask_arm(CLASSIFY, "r2", "Who?")
        for replica in replicas:
            replica.free.set()
        while True:
            try:
                prediction = await servers.ask_arm(CLASSIFY, "r2", "Who?")
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                break
        assert prediction.output == "b"

    asking(story, 0.6, *replicas)


def test_an_outage_is_nobodys_failure() -> None:
    async def story() -> None:
        servers = ModelServers(["http://127.0.0.1:9"], 0.2)
        await servers.open()
        try:
            for _ in range(2 * OPEN_AFTER):
                with pytest.raises(Unavailable) as away:
                    await servers.ask_arm(CLASSIFY, "r2", "Who?")
                assert not isinstance(away.value, PassedOver)
        finally:
            await servers.close()

    asyncio.run(story())
