"""The gateway asked by OpenAI's own client, as people run it: its retries and time-outs too."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from gateway_harness import TASK, eventually, held_server, split_event
from generation_harness import TASK as REPLIES
from generation_harness import Gateway, gateway
from test_gateway_client_fields import FIELDS, NAMES

from flywheel.contracts.events import LabelRecorded, TrafficRecorded

# Of the call itself, not of the request.
_CALL = {"self", "model", "messages", "extra_headers", "extra_query", "extra_body", "timeout"}


@pytest.fixture
def ask(gate: Gateway) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{gate.http.base_url}/v1", api_key="none") as client:

        def ask(task: str, text: str = "Where is Ulm?", **fields: Any) -> Any:
            messages = [{"role": "user", "content": text}]
            return client.chat.completions.create(model=task, messages=messages, **fields)

        yield ask


def test_every_field_of_the_signature_is_tried() -> None:
    create = openai.resources.chat.completions.Completions.create
    known = set(inspect.signature(create).parameters) - _CALL
    assert known - set(NAMES) == set(), "the client has fields that nobody tried"


@pytest.mark.parametrize("task", [TASK, REPLIES])
def test_none_is_as_left_out(ask: Any, task: str) -> None:
    for name in NAMES:
        assert ask(task, **{name: None}).choices[0].message.content, name
    assert ask(task, **dict.fromkeys(NAMES)).choices[0].message.content


@pytest.mark.parametrize(("name", "value", "labels", "text"), FIELDS, ids=str)
def test_a_field_is_done_or_its_reason_is_shown(
    ask: Any, name: str, value: Any, labels: bool, text: bool
) -> None:
    for task, done in ((TASK, labels), (REPLIES, text)):
        if done:
            answer = ask(task, **{name: value})
            assert list(answer) if (name, value) == ("stream", True) else answer.usage is not None
        else:
            with pytest.raises(openai.BadRequestError, match=f"{name}: ") as caught:
                ask(task, **{name: value})
            assert caught.value.param == name


def test_a_stream_ends_with_its_usage(ask: Any) -> None:
    chunks = list(ask(TASK, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "LOC"
    assert chunks[-1].usage.completion_tokens == 1


def test_errors_show_their_reason(gate: Gateway) -> None:
    with openai.OpenAI(base_url=f"{gate.http.base_url}/v1", api_key="none") as client:
        with pytest.raises(openai.NotFoundError, match="there is no task 'gpt-4o'"):
            client.models.retrieve("gpt-4o")
        with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings is not answered"):
            client.embeddings.create(model=TASK, input="Where?")
        with pytest.raises(openai.NotFoundError, match="POST /v1/responses is not answered"):
            client.responses.create(model=TASK, input="Where?")
        with pytest.raises(openai.APIStatusError, match="DELETE /v1/models/x is not answered"):
            client.models.delete("x")
        assert {model.id for model in client.models.list()} == {TASK, REPLIES}


def test_time_outs_and_retries_are_one_request(tmp_path: Path) -> None:
    with held_server() as (url, held), gateway(tmp_path, [url], split_event("r1")) as gate:
        base_url = f"{gate.http.base_url}/v1"
        with openai.OpenAI(base_url=base_url, api_key="none", timeout=0.5) as client:
            messages = [{"role": "user", "content": "Who holds?"}]
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(model=TASK, messages=messages, user="ada")
        held.set()
        eventually(lambda: len(gate.events(TrafficRecorded)) == 3)
        events = gate.events(TrafficRecorded)
    assert all(event.abandoned for event in events)
    assert len({event.sample_id for event in events}) == 1
    assert {event.unit for event in events} == {"ada"}


def test_feedback_takes_the_id_of_the_answer(gate: Gateway, ask: Any) -> None:
    answer = ask(TASK, extra_headers={"Idempotency-Key": "order-17"})
    again = ask(TASK, extra_headers={"Idempotency-Key": "order-17"})
    assert answer.id == again.id
    said = {"task": TASK, "sample_id": answer.id, "label": "LOC"}
    assert gate.http.post("/v1/feedback", json=said).status_code == 202
    eventually(lambda: gate.events(LabelRecorded))
    assert gate.events(LabelRecorded)[-1].sample_id == answer.id.removeprefix("chatcmpl-")
