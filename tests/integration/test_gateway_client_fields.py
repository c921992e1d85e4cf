"""Every field of the OpenAI client's signature: done, or refused for a reason of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gateway_harness import TASK, eventually
from generation_harness import TASK as REPLIES
from generation_harness import Gateway

from flywheel.contracts.events import LabelRecorded

# chat.completions.create of openai 3.57.0 by inspect.signature; value → done by a task with labels,
# and by one that generates text.
FIELDS: list[tuple[str, Any, bool, bool]] = [
    ("audio", {"format": "mp3", "voice": "alloy"}, False, False),
    ("frequency_penalty", 0.5, False, False),
    ("frequency_penalty", 0, True, True),
    ("function_call", "auto", False, False),
    ("function_call", "none", True, True),
    ("functions", [{"name": "f"}], False, False),
    ("functions", [], True, True),
    ("logit_bias", {"50256": -100}, False, False),
    ("logit_bias", {}, True, True),
    ("logprobs", True, True, False),
    ("logprobs", False, True, True),
    ("max_completion_tokens", 64, True, False),
    ("max_tokens", 64, True, False),
    ("metadata", {"a": "b"}, True, True),
    ("modalities", ["text", "audio"], False, False),
    ("modalities", ["text"], True, True),
    ("moderation", {"model": "omni-moderation-latest"}, False, False),
    ("n", 2, False, False),
    ("n", 1, True, True),
    ("parallel_tool_calls", False, True, True),
    ("prediction", {"type": "content", "content": "LOC"}, True, True),
    ("presence_penalty", 0.5, False, False),
    ("prompt_cache_key", "k", True, True),
    ("prompt_cache_options", {"mode": "implicit"}, True, True),
    ("prompt_cache_retention", "24h", True, True),
    ("reasoning_effort", "high", False, False),
    ("reasoning_effort", "none", True, True),
    ("response_format", {"type": "json_object"}, False, False),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "n"}}, False, False),
    ("response_format", {"type": "text"}, True, True),
    ("safety_identifier", "s", True, True),
    ("seed", 7, True, True),
    ("service_tier", "flex", True, True),
    ("stop", ["\n"], False, False),
    ("stop", [], True, True),
    ("store", True, True, True),
    ("stream", True, True, True),
    ("stream", False, True, True),
    ("stream_options", {"include_usage": True}, True, True),
    ("stream_options", {"include_usage": None}, True, True),
    ("stream_options", {"include_obfuscation": True}, False, False),
    ("stream_options", {"include_obfuscation": False}, True, True),
    ("temperature", 0.7, False, False),
    ("temperature", 0, True, True),
    ("tool_choice", "auto", False, False),
    ("tool_choice", "none", True, True),
    ("tools", [{"type": "function", "function": {"name": "f"}}], False, False),
    ("tools", [], True, True),
    ("top_logprobs", 2, False, False),
    ("top_p", 0.5, False, False),
    ("top_p", 1, True, True),
    ("user", "ada", True, True),
    ("verbosity", "low", False, False),
    ("verbosity", "medium", True, True),
    ("web_search_options", {}, False, False),
]
NAMES = sorted({name for name, *_ in FIELDS})


def ask(gate: Gateway, task: str, **fields: Any) -> Any:
    body = {"model": task, "messages": [{"role": "user", "content": "Where is Ulm?"}], **fields}
    return gate.http.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("task", [TASK, REPLIES])
def test_null_is_as_left_out(gate: Gateway, task: str) -> None:
    for name in [*NAMES, "a_field_of_tomorrow"]:
        assert ask(gate, task, **{name: None}).status_code == 200, name
    assert ask(gate, task, **dict.fromkeys(NAMES)).status_code == 200
    nested = {"stream_options": {"include_usage": None}, "response_format": {"type": "text"}}
    nested["response_format"] |= {"json_schema": None}  # type: ignore[dict-item]
    assert ask(gate, task, **nested).status_code == 200


def test_null_is_as_left_out_in_every_body(gate: Gateway) -> None:
    post = gate.http.post
    classify = {"task": TASK, "text": "Where is Ulm?", "user": None, "release": None}
    assert post("/v1/classify", json=classify).status_code == 200
    feedback = {"task": TASK, "sample_id": "s", "label": "LOC", "source": None, "annotator": None}
    assert post("/v1/feedback", json=feedback).status_code == 202
    eventually(lambda: any(e.sample_id == "s" for e in gate.events(LabelRecorded)))
    [event] = [e for e in gate.events(LabelRecorded) if e.sample_id == "s"]
    assert (event.source, event.annotator) == ("user", "anonymous")
    for missing in ("task", "text"):
        refused = post("/v1/classify", json={**classify, missing: None})
        assert refused.status_code == 400
        assert missing in refused.json()["error"]["message"]


@pytest.mark.parametrize(("name", "value", "labels", "text"), FIELDS, ids=str)
def test_a_field_is_done_or_refused_for_a_reason_of_its_own(
    gate: Gateway, name: str, value: Any, labels: bool, text: bool
) -> None:
    for task, done in ((TASK, labels), (REPLIES, text)):
        answer = ask(gate, task, **{name: value})
        if done:
            assert answer.status_code == 200, answer.text
            continue
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == name
        assert error["message"].startswith(f"{name}: ")
        assert "is known here" not in error["message"]


def test_the_document_has_every_field() -> None:
    document = (Path(__file__).parents[2] / "docs/openai.md").read_text("utf-8")
    assert [name for name in [*NAMES, "model", "messages"] if f"`{name}`" not in document] == []


def chunks(answer: Any) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("task", [TASK, REPLIES])
def test_usage_comes_with_answers_and_at_the_end_of_streams(gate: Gateway, task: str) -> None:
    usage = ask(gate, task).json()["usage"]
    assert usage["completion_tokens"] >= 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    plain = chunks(ask(gate, task, stream=True))
    assert all(chunk["choices"] and "usage" not in chunk for chunk in plain)
    asked = chunks(ask(gate, task, stream=True, stream_options={"include_usage": True}))
    assert [chunk["usage"] for chunk in asked] == [None] * (len(asked) - 1) + [usage]
    assert asked[-1]["choices"] == []
    assert len({chunk["id"] for chunk in asked}) == 1


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
EARLIER: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "See:"}, IMAGE]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"role": "assistant", "content": None, "refusal": "No."},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]},
    {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "42"}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A"}}]},
    {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
    {"role": "developer", "content": "Be brief", "name": None},
    {"role": "user", "content": {"what": "ever"}},
]


@pytest.mark.parametrize("earlier", EARLIER, ids=lambda one: json.dumps(one)[:60])
def test_only_the_last_message_of_the_user_is_read(gate: Gateway, earlier: Any) -> None:
    last = {"role": "user", "content": [{"type": "text", "text": "Where is Ulm?"}]}
    answer = ask(gate, TASK, messages=[earlier, last])
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "LOC"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"type": "text", "text": "See:"}, IMAGE], "'image_url'"),
        ([{"type": "input_audio", "input_audio": {}}], "'input_audio'"),
        ([{"type": "text"}], "no text"),
        (["Where?"], "no text"),
        ([], "expected a text"),
        (None, "expected a text"),
        (5, "expected a text"),
    ],
)
def test_what_no_task_reads_is_refused_where_it_stands(
    gate: Gateway, content: Any, words: str
) -> None:
    # Nor is an earlier message answered in its place.
    messages = [{"role": "user", "content": "Where?"}, {"role": "user", "content": content}]
    answer = ask(gate, TASK, messages=messages)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert "messages[1].content" in answer.json()["error"]["message"]
    assert words in answer.json()["error"]["message"]
