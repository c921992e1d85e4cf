"""What a sample is: the messages of one input, each made of parts. Plain text is the usual case.

Plain text is a string, in memory and in JSON, and means one message of a user with one text in it.
Whatever is more is a tuple of messages. An image stands in a part by its address: its bytes are in
the object store, and never in an event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from flywheel.contracts.answers import normalised
from flywheel.contracts.bounds import LONGEST_SAMPLE, Text, sample_problem, unkept_problem
from flywheel.contracts.invisible import is_blank

Role = Literal["system", "user", "assistant"]
MediaType = Literal["image/png", "image/jpeg", "image/webp", "image/gif"]
MOST_MESSAGES = 1_000
MOST_PARTS = 100
LARGEST_SIDE = 65_535
# With the length: $ alone lets a line end pass.
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Pixels = Annotated[int, Meta(ge=1, le=LARGEST_SIDE)]
# Begins every fingerprint that is not a plain text's: no normalised text holds this character.
_NOT_PLAIN = "\x01"


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A text within a message."""

    text: Text


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image"):
    """An image by the SHA-256 of its bytes, which the object store has; its size is in pixels."""

    sha256: Digest
    media_type: MediaType
    width: Pixels
    height: Pixels


Part: TypeAlias = TextPart | ImagePart


class Message(msgspec.Struct, frozen=True):
    """What one side said, in order."""

    role: Role
    parts: Annotated[tuple[Part, ...], Meta(min_length=1, max_length=MOST_PARTS)]


Messages = Annotated[tuple[Message, ...], Meta(min_length=1, max_length=MOST_MESSAGES)]
# How it is written is decided by ``content_of``: one input has one spelling.
Content: TypeAlias = Text | Messages

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Messages)


def content_of(messages: Sequence[Message]) -> Content:
    """The one way to write an input: one user's texts alone are plain text, joined by line ends."""
    if len(messages) == 1 and messages[0].role == "user":
        texts = [part.text for part in messages[0].parts if isinstance(part, TextPart)]
        if len(texts) == len(messages[0].parts):
            return "\n".join(texts)
    return tuple(messages)


def messages_of(content: Content) -> tuple[Message, ...]:
    """An input as messages, plain text too."""
    return (Message("user", (TextPart(content),)),) if isinstance(content, str) else content


def not_plain(content: Content) -> tuple[Message, ...] | None:
    """The messages of an input that is more than plain text, else None."""
    return None if isinstance(content, str) else content


def as_text(content: Content) -> str:
    """An input for whatever only reads text: plain text as it is; of messages, a paragraph for each
    with its role before it, and an image as its type and size."""
    if not isinstance(content, str):
        content = content_of(content)
    if isinstance(content, str):
        return content
    return "\n".join(
        f"{message.role}: {' '.join(map(_part_as_text, message.parts))}" for message in content
    )


def fingerprint(content: Content) -> str:
    """What two inputs must share to count as the same: in de-duplication, in the draws for the
    holdout, as the key of a cache. Of plain text it is the normalised text; else a digest of roles,
    normalised texts and the images' digests."""
    if not isinstance(content, str):
        content = content_of(content)
    if isinstance(content, str):
        return normalised(content)
    same = [
        (
            message.role,
            [
                normalised(part.text) if isinstance(part, TextPart) else [part.sha256]
                for part in message.parts
            ],
        )
        for message in content
    ]
    return _NOT_PLAIN + hashlib.sha256(_encode(same)).hexdigest()


def same_content(one: Content, other: Content) -> bool:
    """Whether two inputs count as the same."""
    return one == other or fingerprint(one) == fingerprint(other)


def images(content: Content) -> tuple[ImagePart, ...]:
    """The images of an input, each once, in order."""
    if isinstance(content, str):
        return ()
    shown = (part for message in content for part in message.parts if isinstance(part, ImagePart))
    return tuple(dict.fromkeys(shown))


def shows_nothing(content: Content) -> bool:
    """Whether there is nothing to be seen in an input."""
    return not images(content) and all(is_blank(text) for text in _texts(content))


def content_problem(content: Content) -> str | None:
    """Why an input cannot be a sample's, or None."""
    if isinstance(content, str):
        return sample_problem(content)
    if shows_nothing(content):
        return "there is nothing to be seen in it"
    if (length := sum(map(len, _texts(content)))) > LONGEST_SAMPLE:
        return f"its texts have {length} characters; at most {LONGEST_SAMPLE} are accepted"
    return next(filter(None, map(unkept_problem, _texts(content))), None)


def written(content: Content) -> str:
    """An input as one string: plain text as it is, messages as JSON."""
    return content if isinstance(content, str) else _encode(content).decode()


def encode_messages(content: Content) -> str | None:
    """The JSON under which a store keeps what is more than plain text; None for plain text."""
    return None if isinstance(content, str) else written(content)


def decode_content(text: str, messages: str | None) -> Content:
    """An input as a store kept it: its ``as_text``, and what ``encode_messages`` made of it."""
    return text if messages is None else _decoder.decode(messages)


def _texts(content: Content) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [
        part.text for message in content for part in message.parts if isinstance(part, TextPart)
    ]


def _part_as_text(part: Part) -> str:
    if isinstance(part, TextPart):
        return part.text
    return f"[{part.media_type} of {part.width}×{part.height}]"
