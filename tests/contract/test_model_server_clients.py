"""Both clients of the model servers, held to the same meanings by real model servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import pytest
from vllm_models import LABELS, bert_release

from flywheel.contracts.model_server import (
    CLASSIFY,
    GENERATE,
    Call,
    FailsAtText,
    Look,
    ModelRefused,
    Prediction,
    Unreachable,
)
from flywheel.errors import ArtefactError, FlywheelError, ReleaseNotLoaded, Unavailable
from flywheel.gateway.forward import ModelServers
from flywheel.monitoring.http_server import HttpServer
from flywheel.serving.app import create_app
from flywheel.serving.client import ModelServerClient, probes
from flywheel.serving.engine import Classifier, Generated, Generator, InProcess
from flywheel.serving.releases import ReleaseSet

# Bounds for requests that are answered at once, and for those that never are.
PATIENT, BRIEF = 30.0, 1.0


class Ask(Protocol):
    def __call__(
        self, url: str, call: Call, release: str, text: str, seconds: float = PATIENT
    ) -> Prediction: ...


def by_client(
    url: str, call: Call, release: str, text: str, seconds: float = PATIENT
) -> Prediction:
    client = ModelServerClient(url, seconds=seconds)
    try:
        return client.ask(call, release, text)
    finally:
        client.close()


def by_gateway(
    url: str, call: Call, release: str, text: str, seconds: float = PATIENT
) -> Prediction:
    async def run() -> Prediction:
        servers = ModelServers([url], seconds)
        await servers.open()
        try:
            return await servers.ask(call, release, text)
        finally:
            await servers.close()

    return asyncio.run(run())


@pytest.fixture(params=[by_client, by_gateway])
def ask(request: pytest.FixtureRequest) -> Ask:
    client: Ask = request.param
    return client


@pytest.fixture(scope="module")
def folder_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `flywheel serve --folder`, whose release is r1."""
    folder = bert_release(tmp_path_factory.mktemp("clients") / "release", "int8-dynamic")
    command = [sys.executable, "-m", "flywheel", "serve", "--folder", str(folder)]
    command += ["--name", "r1", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()


@dataclass
class Story:
    """Classifies; says when a text that waits is with it, and holds that until let go."""

    waits: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def load(self, release: str) -> Classifier | Generator:
        if release == "broken":
            raise ArtefactError("weights differ from their checksum")
        if release == "yet-loading":
            self.go.wait(30)
        return Writer() if release == "writer" else Reader(self)


class Reader(InProcess):
    labels = ("a", "b")

    def __init__(self, story: Story) -> None:
        self._story = story

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        if "explode" in texts:
            raise ValueError("this text explodes")
        if "wait" in texts:
            self._story.waits.set()
            self._story.go.wait(30)
        return [{"a": 0.25, "b": 0.75} for _ in texts]


class Writer(InProcess):
    labels = ()

    def generate(self, texts: Sequence[str]) -> list[Generated]:
        return [Generated(text=f"To {t}", confidence=0.5, tokens_in=3, tokens_out=2) for t in texts]


@contextmanager
def serving(*names: str) -> Iterator[tuple[str, Story]]:
    """A model server that was told to have these releases."""
    story = Story()
    releases = ReleaseSet(story.load)
    releases.keep(*names)
    releases.start()
    app = create_app(releases=releases, max_batch=1, queue_size=1)
    server = HttpServer(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not (server.started and all(known(s.state, s.release) for s in releases.statuses())):
        assert time.monotonic() < deadline, "it did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.port}", story
    finally:
        story.go.set()
        server.stop()
        thread.join(30)
        releases.stop()


def known(state: str, release: str) -> bool:
    return state != "loading" or release == "yet-loading"


def test_the_server_of_a_folder_is_read_alike(folder_server: str, ask: Ask) -> None:
    prediction = ask(folder_server, CLASSIFY, "r1", "How far is planet 7?")
    assert prediction.output in LABELS
    assert set(prediction.scores) == set(LABELS)
    assert prediction.confidence == max(prediction.scores.values())
    assert prediction.tokens_in > 0
    assert prediction.model_seconds > 0
    client = ModelServerClient(folder_server)
    [alone] = client.classify("r1", ["How far is planet 7?"])
    assert alone == pytest.approx(prediction.scores, abs=1e-6)
    client.close()


def test_many_texts_of_one_request_keep_their_order(folder_server: str) -> None:
    texts = [f"How far is planet {n}, and {'very ' * (n % 7)}why?" for n in range(40)]
    client = ModelServerClient(folder_server, keep=4)
    together = client.classify("r1", texts)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda text: client.ask(CLASSIFY, "r1", text), texts))
    client.close()
    for scores, one in zip(together, alone, strict=True):
        assert scores == pytest.approx(one.scores, abs=0.02)


def test_a_generated_text_is_read_alike(ask: Ask) -> None:
    with serving("writer") as (url, _):
        prediction = ask(url, GENERATE, "writer", "you")
    assert (prediction.output, prediction.scores, prediction.confidence) == ("To you", {}, 0.5)
    assert (prediction.tokens_in, prediction.tokens_out) == (3, 2)


@pytest.mark.parametrize(
    ("release", "text", "error", "said"),
    [
        ("broken", "Who?", ReleaseNotLoaded, "differ from their checksum"),
        ("yet-loading", "Who?", Unavailable, "loading"),
        ("unknown", "Who?", Unavailable, "404"),
        ("reader", "explode", FailsAtText, "500"),
        ("reader", "", ModelRefused, "is empty"),
        ("writer", "Who?", ModelRefused, "generates text"),
        ("reader", "wait", Unavailable, "did not answer in time|no model server answered"),
    ],
)
def test_errors_mean_the_same(
    ask: Ask, release: str, text: str, error: type[FlywheelError], said: str
) -> None:
    with serving("reader", "writer", "broken", "yet-loading") as (url, _):
        with pytest.raises(error, match=said) as caught:
            ask(url, CLASSIFY, release, text, BRIEF if error is Unavailable else PATIENT)
        special = (ReleaseNotLoaded, FailsAtText, Unreachable)
        assert isinstance(caught.value, special) == (error in special)


def test_a_server_that_is_not_there_was_not_reached(ask: Ask) -> None:
    with pytest.raises(Unreachable):
        ask("http://127.0.0.1:9", CLASSIFY, "r1", "Who?", BRIEF)


def test_a_busy_server_is_worth_another_try(ask: Ask) -> None:
    with serving("reader") as (url, story), ThreadPoolExecutor(2) as pool:
        patient = ModelServerClient(url, seconds=30)
        first = pool.submit(patient.ask, CLASSIFY, "reader", "wait")
        assert story.waits.wait(20)
        second = pool.submit(patient.ask, CLASSIFY, "reader", "Who?")
        queued = "flywheel_serving_queue 1.0"
        while queued not in httpx.get(f"{url}/metrics", trust_env=False).text:
            time.sleep(0.01)
        [probe] = probes([url])
        assert probe.look("reader").late, "it is there, and has other things to do"
        with pytest.raises(FlywheelError, match="429") as caught:
            ask(url, CLASSIFY, "reader", "Who else?", BRIEF)
        assert caught.value.retryable
        waiting = ModelServerClient(url, seconds=30, patience=30)
        third = pool.submit(waiting.ask, CLASSIFY, "reader", "Who else?")
        story.go.set()
        assert [one.result().output for one in (first, second, third)] == ["b"] * 3
        patient.close()
        waiting.close()


def test_a_probe_says_what_the_server_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy is for the world outside, not for model servers.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving("reader", "writer", "broken", "yet-loading") as (url, _):
        [probe] = probes([f"{url}/"])
        assert [probe.look("reader"), probe.look("writer")] == [Look(), Look()]
        assert probe.look("broken").problem.startswith(f"{url} could not load it: ")
        assert probe.look("yet-loading") == Look(f"{url} is still loading it")
        assert probe.look("unknown") == Look(f"{url} has not loaded it")


def test_a_server_that_is_still_at_work_when_a_probe_goes_is_late() -> None:
    with serving("reader") as (url, story), ThreadPoolExecutor(1) as pool:
        patient = ModelServerClient(url, seconds=30)
        first = pool.submit(patient.ask, CLASSIFY, "reader", "wait")
        assert story.waits.wait(20)
        [probe] = probes([url], seconds=0.3)
        look = probe.look("reader")
        assert look == Look(f"{url} did not answer in time", late=True)
        story.go.set()
        first.result()
        patient.close()
    [probe] = probes([url], seconds=0.3)
    assert not probe.look("reader").late, "nobody is there"
