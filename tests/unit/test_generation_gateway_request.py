"""What the gateway takes of a generation request, and makes of a model server's answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.contracts.model_server import CLASSIFY, GENERATE, Call
from flywheel.errors import RequestError
from flywheel.gateway.parameters import check_parameters
from flywheel.gateway.requests import ChatRequest, chat_response, parse
from flywheel.kinds import FreeText
from flywheel.kinds import of as kind_of

ONE = {"model": "replies", "messages": [{"role": "user", "content": "Hello?"}]}
HARMLESS = {"user", "stream", "seed", "metadata", "store", "service_tier"}
plain = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-2, 2) | st.text(max_size=3)
values = plain | st.lists(plain, max_size=2) | st.dictionaries(st.text(max_size=3), plain)
names = st.sampled_from(
    ["temperature", "top_p", "max_tokens", "stop", "tools", "logprobs", "seed", "metadata"]
) | st.text(min_size=1, max_size=6)


def checked(fields: dict[str, Any]) -> None:
    body = msgspec.json.encode({**ONE, **fields})
    kind_of("generation").read(parse(ChatRequest, body).messages)
    check_parameters(FreeText(), body)


@given(names.filter(lambda name: name not in {*ONE, "user", "stream", "n"}), values)
def test_a_field_is_what_is_so_anyway_or_is_refused_by_name(name: str, value: Any) -> None:
    neutral = {"temperature": 0, "top_p": 1, "logprobs": False, "stop": [], "tools": []}
    harmless = name in HARMLESS or value is None
    if harmless or (name in neutral and neutral[name] == value):
        checked({name: value})
    else:
        with pytest.raises(RequestError, match="not supported") as caught:
            checked({name: value})
        assert str(caught.value).startswith(f"{name}: ")


def test_parts_of_one_message_are_one_text() -> None:
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]
    checked({"messages": [{"role": "user", "content": parts}]})


@pytest.mark.parametrize("call", [CLASSIFY, GENERATE])
@given(st.binary(max_size=60) | values.map(msgspec.json.encode))
def test_what_is_no_answer_is_said_to_be_none(call: Call, content: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        call.read(content, 0.1)


def generated(**choice: Any) -> bytes:
    fields = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "confidence": 0.5}
    return msgspec.json.encode({"choices": [fields | choice]})


def test_an_answer_is_taken_with_what_came_with_it() -> None:
    found = GENERATE.read(generated(finish_reason="length"), 0.1)
    assert (found.output, found.scores, found.confidence) == ("Hi", {}, 0.5)
    assert (found.finish, found.tokens_in, found.tokens_out) == ("length", 0, 0)
    choices: Any = chat_response(FreeText(), "s", "r", found)["choices"]
    assert (choices[0]["finish_reason"], choices[0]["confidence"]) == ("length", 0.5)


def test_a_confidence_must_be_one() -> None:
    assert GENERATE.read(generated(confidence=1.0 + 1e-9), 0.1).confidence == 1.0
    for wrong in (1.2, -0.1):
        with pytest.raises(ValueError, match="confidence"):
            GENERATE.read(generated(confidence=wrong), 0.1)


def test_a_model_server_is_asked_for_the_text_alone() -> None:
    assert msgspec.json.decode(GENERATE.body("r", "Hello?")) == {
        "model": "r",
        "messages": [{"role": "user", "content": "Hello?"}],
    }
    assert msgspec.json.decode(CLASSIFY.body("r", "Hello?")) == {"model": "r", "input": ["Hello?"]}
