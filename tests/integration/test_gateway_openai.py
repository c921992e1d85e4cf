"""The gateway as OpenAI's clients meet it: models, log-probabilities, parameters, errors, docs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from api_sweep import sweep
from gateway_harness import LABELS, model_server, split_event
from generation_harness import TASK as REPLIES
from generation_harness import Gateway, gateway

TASK = "questions"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with (
        model_server(split_event("r1", task=TASK)) as (url, _),
        gateway(tmp_path_factory.mktemp("gate"), [url], split_event("r1", task=TASK)) as gate,
    ):
        yield gate


def ask(gate: Gateway, **fields: Any) -> Any:
    body = {"model": TASK, "messages": [{"role": "user", "content": "Where is Ulm?"}], **fields}
    return gate.http.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(
    "field",
    [b'"temperature":1e999', b'"seed":1e400', b'"metadata":{"a":"\xff"}', b'"user":"\xff"'],
)
@pytest.mark.parametrize("task", [TASK, REPLIES])
def test_what_is_no_json_is_refused_wherever_it_stands(
    gate: Gateway, field: bytes, task: str
) -> None:
    message = b'{"role":"user","content":"Where is Ulm?"}'
    body = b'{"model":"%s","messages":[%s],%s}' % (task.encode(), message, field)
    answer = gate.http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("the body is not")


def test_one_model_can_be_asked_for(gate: Gateway) -> None:
    listed = {one["id"]: one for one in gate.http.get("/v1/models").json()["data"]}
    for name, one in listed.items():
        assert gate.http.get(f"/v1/models/{name}").json() == one
    assert listed[TASK]["object"] == "model"
    missing = gate.http.get("/v1/models/gpt-4o")
    assert missing.status_code == 404
    assert missing.json()["error"]["param"] == "model"
    assert "known: capitals, questions" in missing.json()["error"]["message"]


@pytest.mark.parametrize("top", [None, 0, 2, 20])
def test_log_probabilities_are_those_of_the_labels(gate: Gateway, top: int | None) -> None:
    body = {"task": TASK, "text": "Where is Ulm?"}
    scores = gate.http.post("/v1/classify", json=body).json()["scores"]
    choice = ask(gate, logprobs=True, top_logprobs=top).json()["choices"][0]
    [token] = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert token["token"] == choice["message"]["content"] == "LOC"
    assert bytes(token["bytes"]) == b"LOC"
    assert math.exp(token["logprob"]) == pytest.approx(scores["LOC"])
    best = sorted(scores, key=scores.__getitem__, reverse=True)[: top or 0]
    assert [one["token"] for one in token["top_logprobs"]] == best
    for one in token["top_logprobs"]:
        assert math.exp(one["logprob"]) == pytest.approx(scores[one["token"]])


def test_log_probabilities_come_when_asked_for(gate: Gateway) -> None:
    for fields in ({}, {"logprobs": False}, {"logprobs": None}):
        assert "logprobs" not in ask(gate, **fields).json()["choices"][0]
    streamed = ask(gate, logprobs=True, top_logprobs=1, stream=True).text
    first = json.loads(streamed.split("\n\n")[0].removeprefix("data: "))
    [token] = first["choices"][0]["logprobs"]["content"]
    assert token["token"] == "LOC"
    assert len(token["top_logprobs"]) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.7),
        ("top_p", 0.5),
        ("n", 2),
        ("stop", ["\n"]),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "auto"),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"50256": -100}),
        ("presence_penalty", 1),
        ("frequency_penalty", 1),
        ("stream_options", {"include_obfuscation": True}),
        ("stream_options", {"include_usages": True}),
        ("stream_options", True),
        ("reasoning_effort", "high"),
        ("audio", {"voice": "alloy"}),
        ("max_tokens", 0),
        ("max_completion_tokens", "many"),
        ("logprobs", 1),
        ("top_logprobs", 21),
        ("top_logprobs", True),
        ("top_logprob", 1),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(gate: Gateway, name: str, value: Any) -> None:
    wanted = {"logprobs": True} if name.startswith("top_logprob") else {}
    answer = ask(gate, **wanted, **{name: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == name
    assert error["message"].startswith(f"{name}: ")


def test_top_logprobs_needs_logprobs(gate: Gateway) -> None:
    answer = ask(gate, top_logprobs=2)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "top_logprobs"


def test_null_is_left_out_and_bookkeeping_is_taken(gate: Gateway) -> None:
    names = (
        "temperature top_p n stop tools tool_choice response_format logit_bias stream logprobs "
        "stream_options max_tokens max_completion_tokens user something_new top_logprobs"
    )
    assert ask(gate, **dict.fromkeys(names.split())).status_code == 200
    bookkeeping = {
        "user": "ada", "metadata": {"a": "b"}, "store": False, "seed": 7, "n": 1,
        "prompt_cache_key": "k", "safety_identifier": "s", "parallel_tool_calls": True,
        "service_tier": "auto", "temperature": 0, "top_p": 1, "max_tokens": 5,
    }  # fmt: skip
    assert ask(gate, **bookkeeping).status_code == 200


@pytest.mark.parametrize("path", ["classify", "feedback"])
def test_a_misspelt_field_is_not_ignored(gate: Gateway, path: str) -> None:
    bodies = {
        "classify": {"task": TASK, "text": "Where?", "usr": "ada"},
        "feedback": {"task": TASK, "sample_id": "s", "label": "LOC", "anotator": "ada"},
    }
    answer = gate.http.post(f"/v1/{path}", json=bodies[path])
    assert answer.status_code == 400
    assert ("usr" in answer.json()["detail"]) or ("anotator" in answer.json()["detail"])


def test_every_error_speaks_to_openai_clients_and_to_others(gate: Gateway) -> None:
    answers = [
        gate.http.get("/nowhere"),
        gate.http.get("/v1/chat/completions"),
        gate.http.delete("/v1/models"),
        gate.http.post("/v1/chat/completions", content=b"{"),
        gate.http.post("/v1/classify", json={"task": "nope", "text": "x"}),
        gate.http.post("/v1/classify", json={"task": TASK, "text": "x" * 20_001}),
        gate.http.get("/v1/models", headers={"Host": "evil.example"}),
        gate.http.get("/v1/models", headers={"x-flywheel-source": "x" * 65}),
        gate.http.get("/v1/models", headers={"x-long": "x" * 40_000}),
    ]
    assert [one.status_code for one in answers] == [404, 405, 405, 400, 404, 413, 403, 400, 431]
    for one in answers:
        assert one.headers["content-type"] == "application/problem+json"
        problem = one.json()
        assert problem["status"] == one.status_code
        assert problem["error"]["message"] == problem["detail"] != ""
        assert problem["error"]["code"] == problem["error"]["type"] == problem["code"]
        assert "param" in problem["error"]
        assert problem["title"]


def test_the_interface_is_as_it_describes_itself(gate: Gateway) -> None:
    document = gate.http.get("/openapi.json").json()
    asked = sweep(str(gate.http.base_url), document, {}, examples=30)
    routes = {
        f"{method} {route.path.replace(':path', '')}"
        for route in gate.app.routes
        for method in (route.methods or ()) - {"HEAD"}
        if not route.path.startswith(("/docs", "/openapi.json"))
    }
    assert asked == routes
    assert LABELS
    assert REPLIES in gate.http.get(f"/v1/models/{REPLIES}").text


def test_docs_show_every_route_without_a_foreign_host(gate: Gateway) -> None:
    page = gate.http.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in gate.http.get("/openapi.json").json()["paths"]:
        assert path in page.text
    assert "<script" not in page.text
    assert "//" not in page.text.replace("application/", "").split("<h2>Schemas")[0]
    assert gate.http.get("/docs/style.css").headers["content-type"].startswith("text/css")
