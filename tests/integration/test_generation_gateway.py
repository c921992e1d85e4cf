"""The gateway of a task that answers with free text, in front of a real model server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_harness import eventually, load_keyword, model_server, split_event
from generation_harness import TASK, Gateway, Geographer, gateway, question, truth

from flywheel.contracts.answers import same_text
from flywheel.contracts.events import LabelRecorded, ShadowRecorded, TrafficRecorded
from flywheel.contracts.ids import unit_fraction

WEAK, GOOD = "capitals-weak", "capitals-good"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    split = split_event(WEAK, GOOD, 0.5, task=TASK)
    with model_server(split, load=Geographer) as (url, _):
        yield url


@pytest.fixture
def gate(tmp_path: Path, server: str) -> Iterator[Gateway]:
    with gateway(tmp_path, [server], split_event(GOOD, task=TASK)) as gate:
        yield gate


def known(skill: float) -> str:
    """A question that the better release answers, and the other does not."""
    texts = (question(number) for number in range(1000))
    return next(text for text in texts if 0.65 < unit_fraction("known to all", text) < skill)


def test_a_text_is_answered_and_recorded(gate: Gateway) -> None:
    text = known(0.95)
    response = gate.ask(text, "q-1", user="ada", temperature=0, n=1, seed=7)
    answer = response.json()
    [choice] = answer["choices"]
    assert response.status_code == 200
    assert same_text(choice["message"]["content"], truth(text))
    assert choice["finish_reason"] == "stop"
    assert 0.7 <= choice["confidence"] <= 0.95
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert answer["model"] == response.headers["x-flywheel-release"] == GOOD
    assert response.headers["x-flywheel-sample-id"] == "q-1"
    eventually(lambda: gate.events(TrafficRecorded))
    [event] = gate.events(TrafficRecorded)
    assert (event.sample_id, event.text, event.unit) == ("q-1", text, "ada")
    assert (event.output, event.scores) == (choice["message"]["content"], {})
    assert event.confidence == choice["confidence"]
    assert (event.tokens_in, event.tokens_out, event.status) == (7, 2, 200)


def test_a_stream_is_the_same_answer_in_one_piece(gate: Gateway) -> None:
    whole = gate.ask(known(0.95)).json()["choices"][0]["message"]["content"]
    response = gate.ask(known(0.95), stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert chunks[0]["choices"][0]["delta"]["content"] == whole
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n": 2}, "n: not supported"),
        ({"temperature": 0.7}, "temperature: not supported"),
        ({"max_tokens": 5}, "max_answer_tokens"),
        ({"max_completion_tokens": 5}, "max_answer_tokens"),
        ({"top_p": 0.5}, "top_p: not supported"),
        ({"stop": ["\n"]}, "stop: not supported"),
        ({"tools": [{"type": "function"}]}, "tools: not supported"),
        ({"logprobs": True}, "logprobs: not supported"),
        ({"something_new": 1}, "something_new: not supported"),
        ({"messages": [{"role": "system", "content": "Be rude"}]}, "role 'system'"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "several of the user"),
        ({"messages": [{"role": "user", "content": " "}]}, "the text is empty"),
    ],
)
def test_what_would_be_ignored_is_refused(
    gate: Gateway, fields: dict[str, object], words: str
) -> None:
    response = gate.ask("Where?", **fields)
    assert response.status_code == 400
    assert words in response.json()["detail"]
    assert words in response.json()["error"]["message"]
    assert gate.events(TrafficRecorded) == []


def test_what_is_so_anyway_may_be_said(gate: Gateway) -> None:
    neutral = {
        "temperature": 0.0, "top_p": 1, "n": 1, "stop": None, "max_tokens": None, "tools": [],
        "response_format": {"type": "text"}, "presence_penalty": 0, "metadata": {"a": "b"},
    }  # fmt: skip
    assert gate.ask("Where?", **neutral).status_code == 200


def test_classify_says_where_to_ask(gate: Gateway) -> None:
    response = gate.http.post("/v1/classify", json={"task": TASK, "text": "Where?"})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert "/v1/chat/completions" in response.json()["detail"]


def test_models_tell_a_task_that_generates(gate: Gateway) -> None:
    models = {row["id"]: row for row in gate.http.get("/v1/models").json()["data"]}
    assert (models[TASK]["labels"], models[TASK]["kind"]) == ([], "generation")
    assert "kind" not in models["questions"]


def test_feedback_is_the_right_text(gate: Gateway) -> None:
    body = {"sample_id": "q-1", "task": TASK, "label": "Paris,\nof course"}
    assert gate.http.post("/v1/feedback", json=body).status_code == 202
    eventually(lambda: gate.events(LabelRecorded))
    [event] = gate.events(LabelRecorded)
    assert (event.value, event.source) == ("Paris,\nof course", "user")
    for useless, words in ((" ", "empty"), ("x" * 8001, "8001 characters")):
        response = gate.http.post("/v1/feedback", json=body | {"label": useless})
        assert response.status_code == 400
        assert words in response.json()["detail"]


def test_the_other_arm_answers_copies(tmp_path: Path, server: str) -> None:
    split = split_event(WEAK, GOOD, 0.5, shadow=1.0, task=TASK)
    with gateway(tmp_path, [server], split) as gate:
        for number in range(20):
            assert gate.ask(question(number), f"q-{number}").status_code == 200
        eventually(lambda: len(gate.events(ShadowRecorded)) == 20)
        live = {event.sample_id: event for event in gate.events(TrafficRecorded)}
        copies = {event.sample_id: event for event in gate.events(ShadowRecorded)}
    assert {event.arm for event in live.values()} == {"champion", "challenger"}
    for sample, copy in copies.items():
        assert {copy.arm, live[sample].arm} == {"champion", "challenger"}
        assert {copy.release, live[sample].release} == {WEAK, GOOD}
        assert copy.output is not None
        assert (copy.scores, copy.error) == ({}, None)
        assert 0 < (copy.confidence or 0) < 1


def test_a_release_of_the_other_kind_answers_nothing(tmp_path: Path) -> None:
    split = split_event("r1", task=TASK)
    with (
        model_server(split, load=load_keyword) as (url, _),
        gateway(tmp_path, [url], split, timeout=1.0) as gate,
    ):
        response = gate.ask("Who?")
        assert response.status_code == 503
        assert "confidence" in response.json()["detail"]
        eventually(lambda: gate.events(TrafficRecorded))
        [event] = gate.events(TrafficRecorded)
        assert (event.status, event.output) == (503, None)


def test_a_text_that_no_release_can_take_is_given_up(gate: Gateway) -> None:
    response = gate.ask("explode")
    assert response.status_code == 503
    assert "fails at this text" in response.json()["detail"]
