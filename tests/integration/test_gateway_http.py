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
    LABELS,
    TASK,
    Gateway,
    KeywordClassifier,
    client,
    eventually,
    model_server,
    split_event,
    started_gateway,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flywheel.contracts.events import LabelRecorded, ShadowRecorded, TrafficRecorded
from flywheel.gateway.auth import Keys
from flywheel.gateway.config import GatewayLimits
from flywheel.gateway.limits import SourceLimits
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


def test_keys_are_asked_for_and_name_the_source(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"), keys=Keys(["s3cret", "other"]))
    assert gate.classify("Who?").status_code == 401
    assert gate.http.get("/v1/models").status_code == 401
    refused = gate.http.post("/v1/classify", json={}, headers={"Authorization": "Bearer s3cre"})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    gate.http.headers["Authorization"] = "Bearer s3cret"
    assert gate.classify("Who?").status_code == 200
    gate.http.headers["x-flywheel-source"] = "shop"
    assert gate.classify("Who?").status_code == 200
    eventually(lambda: len(gate.events(TrafficRecorded)) == 2)
    first, second = (event.source for event in gate.events(TrafficRecorded))
    assert first.startswith("key-")
    assert "s3cret" not in first
    assert second == "shop"


def test_metrics_ask_for_a_key_and_health_does_not(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"), metrics_keys=("watching",))
    assert gate.http.get("/metrics").status_code == 401
    assert gate.http.get("/healthz").status_code == 200
    watching = {"Authorization": "Bearer watching"}
    assert "flywheel_gateway" in gate.http.get("/metrics", headers=watching).text


def test_a_source_that_asks_too_much_is_slowed_down(gateway, champion) -> None:
    source_limits = SourceLimits(0.001, burst=2)
    gate = gateway([champion], split=split_event("r1"), source_limits=source_limits)
    assert [gate.classify("Who?").status_code for _ in range(3)] == [200, 200, 429]
    assert int(gate.classify("Who?").headers["retry-after"]) >= 1
    for forged in ("x-flywheel-source", "x-forwarded-for"):
        gate.http.headers[forged] = "10.1.1.1"
        assert gate.classify("Who?").status_code == 429


FEEDBACK = json.dumps({"sample_id": "s1", "task": TASK, "label": "NUM"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://127.0.0.1:1"},
        {"Content-Type": "application/json", "Origin": "https://evil.example"},
        {"Content-Type": "application/json", "Origin": "null"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "same-site"},
        {"Content-Type": "application/json", "Host": "evil.example"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
    ids=str,
)
def test_without_keys_a_foreign_page_writes_no_labels(gateway, champion, headers) -> None:
    gate = gateway([champion], split=split_event("r1"))
    for path in ("/v1/feedback", "/v1/classify", "/v1/chat/completions"):
        answer = gate.http.post(path, content=FEEDBACK, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "forbidden-origin"
    gate.classify("Who wrote the last record?")
    eventually(lambda: gate.events(TrafficRecorded))
    assert gate.events(LabelRecorded) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {},
        {"Content-Type": "application/json", "Host": "localhost:8080"},
        {"Content-Type": "application/json", "Host": "[::1]:8080"},
    ],
    ids=str,
)
def test_programs_on_this_machine_are_answered(gateway, champion, headers) -> None:
    gate = gateway([champion], split=split_event("r1"))
    answer = gate.http.post("/v1/feedback", content=FEEDBACK, headers=headers)
    assert answer.status_code == 202


def test_a_name_of_a_strangers_dns_reads_nothing(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1"))
    rebound = {"Host": "evil.example:8080"}
    for path in ("/v1/models", "/metrics"):
        assert gate.http.get(path, headers=rebound).status_code == 403
        with client(champion) as model_server:
            assert model_server.get(path, headers=rebound).status_code == 403
    assert gate.http.get("/healthz", headers=rebound).status_code == 200


def test_with_keys_the_host_is_the_networks_matter(gateway, champion) -> None:
    keys = Keys(["s3cret"])
    gate = gateway([champion], split=split_event("r1"), keys=keys, names=None)
    gate.http.headers["Authorization"] = "Bearer s3cret"
    headers = {"Host": "models.example", "Content-Type": "text/plain"}
    answer = gate.http.post("/v1/feedback", content=FEEDBACK, headers=headers)
    assert answer.status_code == 202


def test_the_other_arm_scores_in_the_shadow(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1", "r2", 0.5, shadow=1.0))
    arms = {}
    for number in range(20):
        answer = gate.classify(f"Question {number}").json()
        arms[answer["sample_id"]] = answer["arm"]
    assert set(arms.values()) == {"champion", "challenger"}
    eventually(lambda: len(gate.events(ShadowRecorded)) == 20)
    for shadow in gate.events(ShadowRecorded):
        assert shadow.arm != arms[shadow.sample_id]
        assert shadow.release == {"champion": "r1", "challenger": "r2"}[shadow.arm]
        assert shadow.output in LABELS


@pytest.mark.parametrize(
    ("assign_by", "user", "arms", "units"),
    [
        ("user", "the-app", 1, 1),
        ("request", "the-app", 2, 24),
        ("user", "", 2, 24),
        ("user", "  ", 2, 24),
    ],
)
def test_one_caller_is_one_unit_unless_each_request_is_drawn(
    gateway, champion, assign_by, user, arms, units
) -> None:
    gate = gateway([champion], split=split_event("r1", "r2", 0.5, assign_by=assign_by))
    answers = [gate.classify(f"Who? {n}", user=user).json() for n in range(24)]
    eventually(lambda: len(gate.events(TrafficRecorded)) == 24)
    events = gate.events(TrafficRecorded)
    assert len({answer["arm"] for answer in answers}) == arms
    assert len({event.unit for event in events}) == units
    # What is recorded as the unit is what the lot was drawn by.
    assert all(event.unit in (user, event.sample_id) for event in events)


def test_shadow_copies_are_dropped_rather_than_slowing_answers(gateway, champion) -> None:
    go = threading.Event()

    def load(release: str) -> KeywordClassifier:
        return KeywordClassifier(release, gate=_AfterFirst(go))

    def dropped(gate: Gateway) -> float:
        text = gate.http.get("/metrics").text
        name = "flywheel_gateway_shadow_dropped_total "
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])

    with model_server(split_event("slow"), load=load) as (slow, _):
        limits = GatewayLimits(shadow_concurrency=1, shadow_queue=1)
        split = split_event("r1", "slow", share=0.0, shadow=1.0)
        gate = gateway([champion, slow], split=split, limits=limits)
        before = dropped(gate)
        assert [gate.classify(f"Who? {n}").status_code for n in range(10)] == [200] * 10
        # One copy is being scored and one is waiting; the other eight had no place.
        assert dropped(gate) - before == 8
        go.set()
        eventually(lambda: len(gate.events(ShadowRecorded)) == 2)


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


def test_the_split_moves_at_once_and_no_request_fails(gateway, champion) -> None:
    gate = gateway([champion], split=split_event("r1", "r2", 0.0))
    stop = threading.Event()
    failed: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            status = gate.classify("Who?").status_code
            if status != 200:
                failed.append(status)

    asking = threading.Thread(target=ask)
    asking.start()
    for share in (0.1, 0.5, 1.0):
        gate.splits.update(split_event("r1", "r2", share))
    assert gate.classify("Who?").json()["release"] == "r2"
    gate.splits.update(split_event("r2"))
    assert gate.classify("Who?").json()["release"] == "r2"
    stop.set()
    asking.join()
    assert failed == []


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
        return KeywordClassifier(release, gate=_AfterFirst(opened))

    with model_server(split_event("r1"), load=load) as (url, _):
        gate = gateway([url], split=split_event("r1"))
        with pytest.raises(httpx.ReadTimeout):
            gate.http.post("/v1/classify", json={"task": TASK, "text": "Who left?"}, timeout=0.2)
        opened.set()
        eventually(lambda: gate.events(TrafficRecorded))
        [event] = gate.events(TrafficRecorded)
        assert (event.text, event.output, event.abandoned) == ("Who left?", "HUM", True)


class _AfterFirst(threading.Event):
    """Lets the warm-up through and holds every later prediction until opened."""

    def __init__(self, opened: threading.Event) -> None:
        super().__init__()
        self._opened = opened
        self._warm = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._warm:
            self._warm = True
            return True
        return self._opened.wait(timeout)


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
