"""What a task takes of the messages of a chat request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from flywheel.contracts.bounds import sample_problem
from flywheel.contracts.sample import Content, ImagePart, as_text
from flywheel.errors import RequestError

# What is read of a file that a line names.
LARGEST_FILE = 10 << 20


class ChatMessage(Protocol):
    """One message as a client sends it."""

    @property
    def role(self) -> str:
        """Who says it, in OpenAI's words."""
        ...

    @property
    def content(self) -> Any:
        """A text, or a list of parts; whatever else may stand there where nobody looks at it."""
        ...


class Image(NamedTuple):
    """An image that came with an input: its part of that, and its bytes, which the object store
    must have before anything names it."""

    part: ImagePart
    data: bytes


class Input(NamedTuple):
    """An input as a task takes it."""

    content: Content
    images: tuple[Image, ...] = ()


# Raises RequestError, naming the field, for messages that hold no input for such a task.
Read: TypeAlias = Callable[[Sequence[ChatMessage]], Input]
# The bytes of what a line of a file names, beside that file. Raises OSError.
Load: TypeAlias = Callable[[str], bytes]
# Raises ValueError, saying what is wrong, for a line that holds no input for such a task.
FromLine: TypeAlias = Callable[[Mapping[str, Any], Load], Input]
# Where a file finds an image, beside it.
ImageName: TypeAlias = Callable[[ImagePart], str]
# What ``FromLine`` reads again as the same input.
ToLine: TypeAlias = Callable[[Content, ImageName], dict[str, Any]]


def last_of_user(messages: Sequence[ChatMessage]) -> Input:
    """The text of the last message of the user, whatever else was said."""
    for index in reversed(range(len(messages))):
        if messages[index].role == "user":
            return Input(text_of(messages[index].content, f"messages[{index}].content"))
    raise RequestError("messages: there is no message with role 'user'", param="messages")


def only_of_user(messages: Sequence[ChatMessage]) -> Input:
    """The text of the one message there is, which is the user's."""
    others = [message.role for message in messages if message.role != "user"]
    if others:
        raise RequestError(
            f"messages: there is one with role {others[0]!r}; a release has instructions of its "
            "own and answers one message of the user, so send that alone",
            param="messages",
        )
    if len(messages) > 1:
        raise RequestError(
            "messages: there are several of the user; a release answers one, so send that alone",
            param="messages",
        )
    return last_of_user(messages)


def text_of(content: Any, where: str) -> str:
    """The text of one message. Raises RequestError for one that has none, or more than text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise RequestError(f"{where}: expected a text, or parts that are texts", param="messages")
    texts: list[str] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if kind == "text" else None
        if not isinstance(text, str):
            said = f"a part of type {kind!r}" if kind not in (None, "text") else "no text"
            raise RequestError(
                f"{where}[{index}]: {said}; tasks read text alone, so send what it says as text",
                param="messages",
            )
        texts.append(text)
    return "\n".join(texts)


def text_in_line(item: Mapping[str, Any], _load: Load) -> Input:
    """The text of a line of a file."""
    text = item.get("text")
    if not isinstance(text, str):
        raise ValueError("the text is no text")
    if problem := sample_problem(text):
        raise ValueError(problem)
    return Input(text)


def text_to_line(content: Content, _image_name: ImageName) -> dict[str, Any]:
    """The fields of a line of a file that has this text."""
    return {"text": as_text(content)}
