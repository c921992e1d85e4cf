"""A conversation, and one of the task's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from flywheel.contracts.sample import (
    MOST_MESSAGES,
    Content,
    Message,
    Role,
    TextPart,
    content_of,
    content_problem,
    messages_of,
)
from flywheel.errors import RequestError
from flywheel.kinds.kind import Kind
from flywheel.kinds.reading import ChatMessage, ImageName, Input, Load, text_of

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def conversation(messages: Sequence[ChatMessage]) -> Input:
    """All of the messages, in order. Raises RequestError, naming the one that is none of it."""
    if not 1 <= len(messages) <= MOST_MESSAGES:
        raise RequestError(
            f"messages: there are {len(messages)}; a conversation has 1 to {MOST_MESSAGES}",
            param="messages",
        )
    said: list[Message] = []
    for index, message in enumerate(messages):
        role = _ROLES.get(str(message.role))
        if role is None:
            raise RequestError(
                f"messages[{index}].role: {message.role!r} is none of {', '.join(_ROLES)}",
                param="messages",
            )
        text = text_of(message.content, f"messages[{index}].content")
        said.append(Message(role, (TextPart(text),)))
    return Input(content_of(said))


def conversation_in_line(item: Mapping[str, Any], _load: Load) -> Input:
    """The messages of a line of a file, as a chat request has them."""
    messages = item.get("messages")
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        fields = ", ".join(list(item)[:10]) or "none"
        raise ValueError(f'"messages" is no list of messages; it has the fields {fields}')
    spelt = [SimpleNamespace(role=one.get("role"), content=one.get("content")) for one in messages]
    try:
        found_input = conversation(spelt)
    except RequestError as error:
        raise ValueError(str(error)) from None
    if problem := content_problem(found_input.content):
        raise ValueError(problem)
    return found_input


def conversation_to_line(content: Content, _image_name: ImageName) -> dict[str, Any]:
    """The messages of a line of a file, each with its text."""
    said = [
        {
            "role": message.role,
            "content": "\n".join(part.text for part in message.parts if isinstance(part, TextPart)),
        }
        for message in messages_of(content)
    ]
    return {"messages": said}


KIND = Kind(
    name="dialogue",
    has_labels=True,
    read=conversation,
    from_line=conversation_in_line,
    to_line=conversation_to_line,
    line='{"messages": [{"role": "user", "content": "…"}, …], "label": "…"}',
    reader="lines",
    input_part="dialogue",
    no_classify="reads conversations, and /v1/classify takes one text",
    ignored={"llm": {"prompt.max_answer_tokens": "a dialogue is answered with one letter"}},
    listed={"kind": "dialogue"},
)
