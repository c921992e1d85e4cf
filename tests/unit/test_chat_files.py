"""Chat files of OpenAI's: the last answer is the label of what was said before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labelled_files import lines, read, refused


def chat(*turns: tuple[str, Any], **last: Any) -> dict[str, Any]:
    messages = [{"role": role, "content": content} for role, content in turns]
    messages[-1] |= last
    return {"messages": messages}


@pytest.mark.parametrize("name", [None, "openai", "openai-chat"])
def test_openai_chat_files(tmp_path: Path, name: str | None) -> None:
    system = ("system", "Say the topic.")
    parts = [{"type": "text", "text": "no"}, {"type": "text", "text": "signal"}]
    content = lines(
        chat(system, ("user", "paid twice"), ("assistant", "billing")),
        chat(("user", parts), ("assistant", "outage")),
        chat(("user", "hm"), ("assistant", "billing"), weight=0),
        chat(("user", "hi"), ("assistant", "?"), ("user", "hi again"), ("assistant", "other")),
        chat(("user", "bomb"), ("assistant", None), refusal="No."),
        {
            "input": chat(("user", "slow")),
            "preferred_output": [{"role": "assistant", "content": "outage"}],
            "non_preferred_output": [{"role": "assistant", "content": "billing"}],
        },
    )
    rows, left_out, format_ = read(tmp_path, content, name)
    assert rows == [
        (1, "paid twice", "billing"),
        (2, "no\nsignal", "outage"),
        (4, "hi again", "other"),
        (6, "slow", "outage"),
    ]
    assert left_out == {'"weight": 0 on the answer': (3,), "the assistant refused": (5,)}
    assert format_ == "openai"


def test_chats_without_an_answer_in_words_are_each_named(tmp_path: Path) -> None:
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    content = lines(
        chat(("user", "paid twice")),
        chat(("user", image), ("assistant", "other")),
        chat(("user", "a"), ("assistant", None), tool_calls=[{"id": "1"}]),
        chat(("assistant", "other")),
        {"messages": "no list"},
    )
    said = refused(tmp_path, content)
    assert said.startswith("5 of 5 lines")
    assert "line 1: the last message is not the assistant's" in said
    assert "line 2: a message holds something that is no text" in said
    assert "line 3: the answer is a call of a tool" in said
