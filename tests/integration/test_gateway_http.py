"""The gateway in front of real model servers, over HTTP."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from gateway_harness import (
    TASK,
    AfterFirst,
    Gateway,
    KeywordClassifier,
    eventually,
    model_server,
    split_event,
    started_gateway,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flywheel.contracts.events import LabelRecorded, TrafficRecorded
from flywheel.gateway.config import GatewayLimits
from flywheel.gateway.spill import MAGIC


def test_a_request_is_answered_and_recorded(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"))
    answer = gate.classify("Who wrote Faust?", user="ada").json()
    assert answer["label"] == "HUM"
    assert answer["release"] == "r1"
    assert answer["arm"] is None
    assert sum(answer["scores"].values()) == pytest.approx(1.0)
    assert answer["confidence"] == max(answer["scores"].values())
    eventually(lambda: gate.events(TrafficRecorded))
    [event] = gate.events(TrafficRecorded)
    assert event.sample_id == answer["sample_id"]
    assert (event.text, event.output, event.unit) == ("Who wrote Faust?", "HUM", "ada")
    assert event.scores == answer["scores"]
    assert event.status == 200
    assert event.latency_ms > 0


def test_openai_clients_are_understood(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1", "r2", 1.0))
    body = {
        "model": TASK,
        "messages": [
            {"role": "system", "content": "classify"},
            {"role": "user", "content": [{"type": "text", "text": "Where is Ulm?"}]},
        ],
        "user": "u1",
        "temperature": 0,
    }
    response = gate.http.post("/v1/chat/completions", json=body)
    answer = response.json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "LOC"}
    assert response.headers["x-flywheel-release"] == "r2"
    assert response.headers["x-flywheel-arm"] == "challenger"
    assert answer["id"] == "chatcmpl-" + response.headers["x-flywheel-sample-id"]
    stream = gate.http.post("/v1/chat/completions", json={**body, "stream": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert '"content":"LOC"' in stream.text
    assert stream.text.endswith("data: [DONE]\n\n")
    models = gate.http.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == [TASK]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not valid JSON"),
        (b"\xff\xfe", 400, "not valid JSON"),
        (b"[]", 400, "not as expected"),
        (b'{"task":"questions"}', 400, "text"),
        (b'{"task":"questions","text":7}', 400, "$.text"),
        (b'{"task":"questions","text":"  "}', 400, "empty"),
        (b'{"task":"nope","text":"x"}', 404, "known: questions"),
        (b'{"task":"questions","text":"' + b"x" * 101 + b'"}', 413, "at most 100"),
        (b'{"task":"questions","text":"' + b"x" * 2000 + b'"}', 413, "1000 bytes"),
        (b'{"task":"questions","text":"x","user":"\\u0000"}', 400, "user"),
    ],
)
def test_bad_requests_are_explained(gateway, champion, body, status, says) -> None:
    limits = GatewayLimits(max_body_bytes=1000, max_text_chars=100)
    gate = gateway([champion], split=split_event("r1"), limits=limits)
    response = gate.http.post("/v1/classify", content=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert says in problem["detail"]
    assert problem["error"]["message"] == problem["detail"]
    assert gate.events(TrafficRecorded) == []


def test_unknown_paths_and_methods_are_problems(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"))
    for response in (gate.http.get("/nope"), gate.http.get("/v1/classify")):
        assert response.headers["content-type"] == "application/problem+json"
        assert response.status_code in (404, 405)
    response = gate.http.post("/v1/chat/completions", json={"model": TASK, "messages": []})
    assert response.status_code == 400
    assert "no message with role 'user'" in response.json()["detail"]


def test_without_a_split_it_asks_to_come_back(gateway, champion) -> None:
    gate = gateway([champion])
    response = gate.classify("Who?")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert "no release serves" in response.json()["detail"]
    gate.splits.update(split_event("r1"))
    assert gate.classify("Who?").status_code == 200


def test_a_repeated_sample_counts_once(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"))
    headers = {"x-flywheel-sample-id": "order-17"}
    for _ in range(2):
        body = {"task": TASK, "text": "How many?"}
        response = gate.http.post("/v1/classify", json=body, headers=headers)
        assert response.json()["sample_id"] == "order-17"
        assert response.headers["x-flywheel-sample-id"] == "order-17"
    eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    assert len({event.event_id for event in gate.events(TrafficRecorded)}) == 1


def test_an_id_that_comes_back_with_another_text_is_a_conflict(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"))
    headers = {"x-flywheel-sample-id": "order-17"}

    def ask(text: str) -> httpx.Response:
        return gate.http.post("/v1/classify", json={"task": TASK, "text": text}, headers=headers)

    assert ask("How many?").status_code == 200
    refused = ask("Who?")
    assert refused.status_code == 409
    assert "order-17" in refused.json()["detail"]
    assert ask("How many?").status_code == 200
    eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    assert {event.text for event in gate.events(TrafficRecorded)} == {"How many?"}


@pytest.mark.parametrize("sample_id", [".", "..", "", "x" * 10_000, "a\x85b"])
def test_an_id_that_is_none_is_refused_and_named(gateway, champion, sample_id) -> None:
    gate = gateway([champion], split=split_event("r1"))
    body = {"task": TASK, "sample_id": sample_id, "label": "NUM"}
    refused = gate.http.post("/v1/feedback", json=body)
    assert refused.status_code == 400
    assert "sample_id" in refused.json()["detail"]


@pytest.mark.parametrize("path", ["classify", "chat/completions", "feedback"])
def test_a_body_nested_without_end_is_refused(gateway, champion, path) -> None:
    gate = gateway([champion], split=split_event("r1"))
    refused = gate.http.post(f"/v1/{path}", content=b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}")
    assert refused.status_code == 400
    # Where no field but those known is taken, its depth need not be looked at.
    why = "nested" if path == "chat/completions" else "unknown field"
    assert why in refused.json()["detail"]


def test_feedback_becomes_a_label(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"))
    body = {"sample_id": "s1", "task": TASK, "label": "NUM", "source": "outcome"}
    assert gate.http.post("/v1/feedback", json=body).status_code == 202
    eventually(lambda: gate.events(LabelRecorded))
    [label] = gate.events(LabelRecorded)
    assert (label.sample_id, label.value, label.source) == ("s1", "NUM", "outcome")
    assert label.annotator == "anonymous"
    wrong = gate.http.post("/v1/feedback", json={**body, "label": "XYZ"})
    assert wrong.status_code == 400
    assert "none of NUM, HUM, LOC" in wrong.json()["detail"]
    wrong = gate.http.post("/v1/feedback", json={**body, "source": "expert"})
    assert wrong.status_code == 400


def test_a_full_disk_is_said_and_nothing_is_acknowledged(gateway, champion, monkeypatch) -> None:
    gate = gateway([champion], split=split_event("r1"))
    real_write = os.write

    def full(fd: int, data: bytes) -> int:
        if bytes(data[:4]) == MAGIC:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        response = gate.classify("Who?")
        assert response.status_code == 503
        assert "the disk is full" in response.json()["detail"]
        body = {"sample_id": "s1", "task": TASK, "label": "NUM"}
        assert gate.http.post("/v1/feedback", json=body).status_code == 503
    kept = gate.classify("Who?").json()["sample_id"]
    eventually(lambda: gate.events(TrafficRecorded))
    assert [event.sample_id for event in gate.events(TrafficRecorded)] == [kept]
    assert gate.events(LabelRecorded) == []


def test_the_interface_describes_itself(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"))
    document = gate.http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    assert "/v1/classify" in document["paths"]
    assert document["components"]["schemas"]["ClassifyRequest"]["required"] == ["task", "text"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    ["task", "text", "user", "model", "messages", "sample_id", "label", "source", "annotator"]
)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(["classify", "chat/completions", "feedback"]),
    st.binary(max_size=60) | st.dictionaries(keys, json_values, max_size=5).map(json.dumps),
    st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20).map(str.strip),
)
def test_no_request_is_answered_with_an_internal_error(shared_gateway, path, body, sample) -> None:
    headers = {"x-flywheel-sample-id": sample.encode("latin-1")}
    response = shared_gateway.http.post(f"/v1/{path}", content=body, headers=headers)
    assert response.status_code < 500
    if response.status_code >= 400:
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["detail"]


@pytest.fixture(scope="module")
def shared_gateway(champion, tmp_path_factory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("shared")
    with started_gateway(folder, [champion], split=split_event("r1")) as gate:
        yield gate


def test_a_broker_outage_is_outlived_and_the_spill_is_bounded(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"), down=True, spill_bytes=3_000)
    answered = []
    for number in range(100):
        response = gate.classify(f"Question {number}")
        if response.status_code != 200:
            break
        answered.append(response.json()["sample_id"])
    assert 3 < len(answered) < 100
    assert response.status_code == 503
    assert "wait for Kafka" in response.json()["detail"]
    eventually(lambda: gate.http.get("/healthz").status_code == 503)
    gate.publisher.down = False
    eventually(lambda: len(gate.events(TrafficRecorded)) == len(answered))
    assert [event.sample_id for event in gate.events(TrafficRecorded)] == answered
    eventually(lambda: gate.classify("Who?").status_code == 200)
    eventually(lambda: gate.http.get("/healthz").status_code == 200)


def test_a_client_that_goes_away_keeps_its_record(gateway) -> None:
    opened = threading.Event()

    def load(release: str) -> KeywordClassifier:
        classifier = KeywordClassifier(release)
        classifier.predict(["warm"])
        return KeywordClassifier(release, gate=AfterFirst(opened))

    with model_server(split_event("r1"), load=load) as (url, _):
        gate = gateway([url], split=split_event("r1"))
        with pytest.raises(httpx.ReadTimeout):
            gate.http.post("/v1/classify", json={"task": TASK, "text": "Who left?"}, timeout=0.2)
        opened.set()
        eventually(lambda: gate.events(TrafficRecorded))
        [event] = gate.events(TrafficRecorded)
        assert (event.text, event.output, event.abandoned) == ("Who left?", "HUM", True)


def test_metrics_tell_requests_latency_spill_and_split(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1", "r2", 0.25))
    gate.classify("Who?")
    text = gate.http.get("/metrics").text
    for name in (
        'flywheel_gateway_requests_total{arm="',
        f'flywheel_gateway_latency_seconds_bucket{{le="0.001",task="{TASK}"',
        f'flywheel_gateway_overhead_seconds_count{{task="{TASK}"',
        f'flywheel_gateway_latency_quantile_seconds{{quantile="0.95",task="{TASK}"',
        "flywheel_gateway_spill_bytes",
        "flywheel_gateway_spill_lag_seconds",
        "flywheel_gateway_shadow_dropped_total",
        f'flywheel_gateway_split{{arm="challenger",task="{TASK}"}} 0.25',
    ):
        assert name in text
