"""The gateway of a task of kind dialogue, in front of a real model server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_harness import TASK, Gateway, eventually, model_server, split_event, started_gateway

from flywheel.contracts.events import TrafficRecorded
from flywheel.contracts.sample import Message, TextPart

SAID = [
    {"role": "user", "content": "Who is it?"},
    {"role": "assistant", "content": "How do you mean?"},
    {"role": "user", "content": "Never mind."},
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with model_server(split_event("r1")) as (url, _):
        yield url


@pytest.fixture
def gate(tmp_path: Path, server: str) -> Iterator[Gateway]:
    with started_gateway(tmp_path, [server], split=split_event("r1"), kind="dialogue") as gate:
        yield gate


def test_the_whole_conversation_is_answered_and_recorded(gate: Gateway) -> None:
    asked = {"model": TASK, "messages": SAID, "logprobs": True, "top_logprobs": 2}
    response = gate.http.post("/v1/chat/completions", json=asked)
    assert response.status_code == 200
    [choice] = response.json()["choices"]
    # The keyword that decides stands in the first message alone.
    assert choice["message"]["content"] == "HUM"
    assert choice["logprobs"]["content"][0]["token"] == "HUM"
    eventually(lambda: gate.events(TrafficRecorded))
    [event] = gate.events(TrafficRecorded)
    assert event.content == (
        Message("user", (TextPart("Who is it?"),)),
        Message("assistant", (TextPart("How do you mean?"),)),
        Message("user", (TextPart("Never mind."),)),
    )
    assert event.output == "HUM"


def test_one_id_names_one_conversation(gate: Gateway) -> None:
    def ask(*messages: dict[str, str]) -> int:
        return gate.http.post(
            "/v1/chat/completions",
            json={"model": TASK, "messages": list(messages)},
            headers={"x-flywheel-sample-id": "talk-1"},
        ).status_code

    assert ask(*SAID) == 200
    assert ask(*SAID) == 200
    assert ask(*SAID[:2]) == 409


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "a conversation has 1 to 1000"),
        ([*SAID, {"role": "tool", "content": "x"}], "messages[3].role: 'tool'"),
        ([{"role": "user", "content": " "}, {"role": "assistant", "content": ""}], "nothing to be"),
    ],
)
def test_what_is_no_conversation_is_refused(gate: Gateway, messages: list, words: str) -> None:
    asked = {"model": TASK, "messages": messages}
    response = gate.http.post("/v1/chat/completions", json=asked)
    assert response.status_code == 400
    assert words in response.json()["detail"]
    assert gate.events(TrafficRecorded) == []


def test_the_kind_is_said_and_one_text_has_no_place(gate: Gateway) -> None:
    [model] = gate.http.get("/v1/models").json()["data"]
    assert (model["kind"], model["labels"]) == ("dialogue", ["NUM", "HUM", "LOC"])
    response = gate.classify("Who is it?")
    assert response.status_code == 400
    assert "/v1/chat/completions" in response.json()["detail"]
