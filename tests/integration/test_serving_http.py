"""The model server over HTTP: loading, unloading, batching, and what goes wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from gateway_harness import (
    KeywordClassifier,
    client,
    eventually,
    load_keyword,
    model_server,
    running,
    split_event,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flywheel.contracts.events import RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.errors import ArtefactError
from flywheel.monitoring.http_server import HttpServer
from flywheel.rollout.servers import PolledServers
from flywheel.serving.app import create_app
from flywheel.serving.client import probes
from flywheel.serving.engine import Generated, InProcess
from flywheel.serving.releases import ReleaseSet
from flywheel.serving.room import Room


def ids(http: httpx.Client) -> list[str]:
    return [model["id"] for model in http.get("/v1/models").json()["data"]]


def classify(http: httpx.Client, release: str, *texts: str) -> httpx.Response:
    return http.post("/classify", json={"model": release, "input": list(texts)})


class Slow(KeywordClassifier):
    """Notes the batches it is given, and holds each until let go."""

    def __init__(self, release: str) -> None:
        super().__init__(release)
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        self.batches.append(len(texts))
        self.go.wait(30)
        return super().predict(texts)


def test_releases_come_and_go_with_the_split() -> None:
    with model_server(split_event("r1"), grace_seconds=0.0) as (url, releases), client(url) as http:
        assert ids(http) == ["r1"]
        missing = classify(http, "r2", "Who?")
        assert missing.status_code == 404
        assert "ready: r1" in missing.json()["detail"]
        releases.update(split_event("r1", "r2", 0.1))
        eventually(lambda: ids(http) == ["r1", "r2"])
        assert classify(http, "r2", "Who?").json()["data"][0]["label"] == "HUM"
        releases.update(split_event("r2"))
        eventually(lambda: ids(http) == ["r2"])
        assert classify(http, "r1", "Who?").status_code == 404
        assert 'flywheel_serving_release{release="r2",state="ready"} 1.0' in (
            http.get("/metrics").text
        )


def test_a_replaced_release_stays_for_requests_under_way() -> None:
    with model_server(split_event("r1")) as (url, releases), client(url) as http:
        releases.update(split_event("r2"))
        eventually(lambda: ids(http) == ["r1", "r2"])
        assert classify(http, "r1", "Who?").status_code == 200


def test_a_release_that_cannot_be_loaded_harms_no_other() -> None:
    event = split_event("r1", "broken-2", 0.1)
    with model_server(event) as (url, _), client(url) as http:
        listed = http.get("/v1/models").json()
        assert [model["id"] for model in listed["data"]] == ["r1"]
        [failed] = listed["unavailable"]
        assert (failed["id"], failed["status"]) == ("broken-2", "failed")
        assert "differ from their checksum" in failed["reason"]
        refused = classify(http, "broken-2", "Who?")
        assert refused.status_code == 503
        assert "differ from their checksum" in refused.json()["detail"]
        assert classify(http, "r1", "Who?").status_code == 200
        assert http.get("/healthz").status_code == 200
        assert 'release="broken-2",state="failed"} 1.0' in http.get("/metrics").text
        found = PolledServers(probes([url])).ready("broken-2")
        assert found.ready == 0
        assert "differ from their checksum" in found.reason, "the server's own words"


def test_a_champion_that_cannot_be_loaded_is_unhealthy_until_it_can() -> None:
    repaired = threading.Event()

    def load(release: str) -> KeywordClassifier:
        if not repaired.is_set():
            raise ArtefactError("weights missing")
        return load_keyword(release)

    with model_server(split_event("r1"), load=load) as (url, releases), client(url) as http:
        health = http.get("/healthz")
        assert health.status_code == 503
        assert "weights missing" in health.json()["checks"]["releases"]
        repaired.set()
        releases.update(split_event("r1"))
        eventually(lambda: http.get("/healthz").status_code == 200)
        assert classify(http, "r1", "Who?").status_code == 200


def test_requests_while_a_release_loads_are_asked_to_come_back() -> None:
    slow = threading.Event()

    def load(release: str) -> KeywordClassifier:
        if release == "r2":
            slow.wait(30)
        return load_keyword(release)

    with model_server(split_event("r1"), load=load) as (url, releases), client(url) as http:
        releases.update(split_event("r1", "r2"))
        loading = classify(http, "r2", "Who?")
        assert loading.status_code == 503
        assert "retry-after" in loading.headers
        assert classify(http, "r1", "Who?").status_code == 200
        slow.set()
        eventually(lambda: classify(http, "r2", "Who?").status_code == 200)


def test_requests_that_wait_together_share_batches() -> None:
    slow = Slow("r1")
    event = split_event("r1")
    with model_server(event, load=lambda _: slow, max_batch=8) as (url, _), client(url) as http:
        slow.batches.clear()
        slow.go.clear()
        with ThreadPoolExecutor(12) as pool:
            texts = [f"Where is {n}?" for n in range(12)]
            # The first alone, or it might share its batch with those that come with it.
            answers = [pool.submit(classify, http, "r1", texts[0])]
            eventually(lambda: slow.batches == [1])
            answers += [pool.submit(classify, http, "r1", text) for text in texts[1:]]
            eventually(lambda: "flywheel_serving_queue 11.0" in http.get("/metrics").text)
            slow.go.set()
            assert all(a.result().json()["data"][0]["label"] == "LOC" for a in answers)
        assert slow.batches[0] == 1
        assert slow.batches[1] == 8
        assert sum(slow.batches) == 12


def test_a_request_larger_than_a_batch_is_split_up() -> None:
    slow = Slow("r1")
    event = split_event("r1")
    with model_server(event, load=lambda _: slow, max_batch=8) as (url, _), client(url) as http:
        slow.batches.clear()
        data = classify(http, "r1", *(f"Who? {n}" for n in range(20))).json()["data"]
        assert [item["label"] for item in data] == ["HUM"] * 20
        assert slow.batches == [8, 8, 4]


def test_a_full_queue_says_so() -> None:
    slow = Slow("r1")
    options = {"max_batch": 2, "queue_size": 4}
    server = model_server(split_event("r1"), load=lambda _: slow, **options)
    with server as (url, _), client(url) as http, ThreadPoolExecutor(4) as pool:
        slow.go.clear()
        first = pool.submit(classify, http, "r1", "Who?")
        eventually(lambda: len(slow.batches) == 2)
        second = pool.submit(classify, http, "r1", "a", "b", "c")
        eventually(lambda: "flywheel_serving_queue 3.0" in http.get("/metrics").text)
        refused = classify(http, "r1", "d", "e")
        assert refused.status_code == 429
        assert "retry-after" in refused.headers
        slow.go.set()
        assert first.result().status_code == second.result().status_code == 200
        assert classify(http, "r1", *"abcde").status_code == 400


def test_a_text_that_the_model_cannot_take_fails_alone() -> None:
    slow = Slow("r1")
    with model_server(split_event("r1"), load=lambda _: slow) as (url, _), client(url) as http:
        slow.go.clear()
        texts = ["Who? a", "Who? b", "explode", "Who? c"]
        with ThreadPoolExecutor(4) as pool:
            before = len(slow.batches)
            answers = [pool.submit(classify, http, "r1", texts[0])]
            eventually(lambda: len(slow.batches) > before)
            answers += [pool.submit(classify, http, "r1", text) for text in texts[1:]]
            eventually(lambda: "flywheel_serving_queue 3.0" in http.get("/metrics").text)
            slow.go.set()
            assert [a.result().status_code for a in answers] == [200, 200, 500, 200]


def test_two_releases_share_one_process() -> None:
    with model_server(split_event("r1", "r2", 0.5)) as (url, _), client(url) as http:

        def ask(number: int) -> tuple[str, list[float]]:
            release = ("r1", "r2")[number % 2]
            data = classify(http, release, f"What {number // 2 % 5}?").json()
            return f"{release}/{number // 2 % 5}", data["data"][0]["probs"]

        with ThreadPoolExecutor(8) as pool:
            seen: dict[str, list[float]] = {}
            for key, probs in pool.map(ask, range(80)):
                assert seen.setdefault(key, probs) == probs
        assert seen["r1/1"] != seen["r2/1"]


class Writer(InProcess):
    """Answers with text."""

    labels = ()

    def generate(self, texts: Sequence[str]) -> list[Generated]:
        return [
            Generated(text=f"To {text}", confidence=0.5, tokens_in=3, tokens_out=2)
            for text in texts
        ]


def test_a_generator_answers_chats_and_classifies_nothing() -> None:
    releases = ReleaseSet(lambda _: Writer())
    releases.keep("w1")
    releases.start()
    server = HttpServer(create_app(releases=releases), "127.0.0.1", 0)
    with running(server) as url, client(url) as http:
        eventually(lambda: ids(http) == ["w1"])
        assert http.get("/v1/models").json()["data"][0]["kind"] == "generator"
        asked = {"model": "w1", "messages": [{"role": "user", "content": "Who?"}]}
        answer = http.post("/v1/chat/completions", json=asked).json()
        [choice] = answer["choices"]
        assert choice["message"] == {"role": "assistant", "content": "To Who?"}
        assert choice["confidence"] == 0.5
        assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        refused = classify(http, "w1", "Who?")
        assert refused.status_code == 400
        assert "generates text" in refused.json()["detail"]
        assert PolledServers(probes([url])).ready("w1").ready == 1
    releases.stop()


class Constant(InProcess):
    labels = ("a", "b")

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [{"a": 0.25, "b": 0.75} for _ in texts]


def serves(release: str) -> RolloutChanged:
    return RolloutChanged(
        event_id=new_id(),
        occurred_at=utc_now(),
        task=f"task of {release}",
        rollout_id="r",
        state="serving",
        split=TrafficSplit(task=f"task of {release}", champion=release),
        decided_by="test",
        reason="",
    )


def test_a_release_that_did_not_fit_answers_whoever_asks_and_no_probe_asks_for_it() -> None:
    releases = ReleaseSet(lambda _: Constant(), room=Room(releases=1))
    for release in ("r1", "r2"):
        releases.update(serves(release))
    releases.start()
    server = HttpServer(create_app(releases=releases), "127.0.0.1", 0)
    with running(server) as url, client(url) as http:
        eventually(lambda: ids(http) == ["r1"])
        (left,) = http.get("/v1/models").json()["unavailable"]
        assert (left["id"], left["status"]) == ("r2", "unloaded")
        assert "1 releases are held at most" in left["reason"]
        assert http.get("/healthz").status_code == 200
        servers = PolledServers(probes([url]))
        assert servers.ready("r2").ready == servers.loaded(["r2", "r1"])["r2"].ready == 1
        assert ids(http) == ["r1"], "looking loads nothing"
        assert classify(http, "r2", "text").status_code == 200
        assert ids(http) == ["r2"]
        assert classify(http, "r1", "text").status_code == 200
        assert classify(http, "r3", "text").status_code == 404
    releases.stop()


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_bodies = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["r1", "", "..", "r\x00"]) | _values,
        "input": st.lists(st.text(max_size=5), max_size=3) | _values,
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.just("user"), "content": _values}), max_size=2
        )
        | _values,
    },
).map(json.dumps)


@pytest.fixture(scope="module")
def served() -> Iterator[httpx.Client]:
    with model_server(split_event("r1")) as (url, _), client(url) as http:
        yield http


@settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(["/classify", "/v1/chat/completions"]),
    st.binary(max_size=60) | _bodies,
)
@example("/classify", '{"x":' + "[" * 5_000 + "]" * 5_000 + "}")
@example("/v1/chat/completions", "[" * 5_000)
@example("/classify", '{"model": "r1", "input": ["\\ud800"]}')
def test_no_body_is_answered_with_an_internal_error(served, path: str, body: str | bytes) -> None:
    answer = served.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404, 413)
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
