"""Who may ask the gateway: keys, sources that ask too much, and pages of other sites."""

from __future__ import annotations

import json

import pytest
from gateway_harness import TASK, client, eventually, split_event

from flywheel.contracts.events import LabelRecorded, TrafficRecorded
from flywheel.gateway.auth import Keys
from flywheel.gateway.limits import SourceLimits


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
